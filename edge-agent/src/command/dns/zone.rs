//! All records of a domain as lines of a zone file, each kind explained by comments. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use sealpost_tunnel::{DomainName, Fingerprint, MxName};
use serde_json::{Value, json};

use super::Keys;
use super::judge::{Wanted, important};
use crate::config::zone::apex;
use crate::registration::domain::Domain as Name;
use crate::registration::mx_set::{Exchanger, MxSet, Way};
use crate::registration::records;
use crate::zone::included;

/// About the records that prove a domain.
const PROOF: &str = "Says that this box may have the domain. Leave it there for good.";

/// About the MX records.
const EXCHANGERS: &str = "The way of mail, in place of all other MX records of the domain.";

/// About the TLSA records.
const DANE: [&str; 3] = [
    "The mail server's key, for senders that check it (DANE). It counts only where the zone is",
    "signed (DNSSEC), and there a wrong one stops their mail. Before the mail server gets another",
    "key, publish that one's record beside this one, and wait until the old answers are forgotten.",
];

/// Everything that there is to say about one domain.
pub(super) struct Zone<'a> {
    pub(super) name: &'a DomainName,
    pub(super) set: &'a MxSet,
    pub(super) fingerprints: &'a [Fingerprint],
    pub(super) keys: &'a Keys,
}

impl Zone<'_> {
    /// For programs.
    pub(super) fn json(&self) -> Value {
        let records: Vec<_> = self.lines().into_iter().filter(|line| is_record(line)).collect();
        let notes: Vec<_> = self.gaps().chain(self.key_notes()).collect();
        json!({
            "domain": self.name,
            "written": Name::from(self.name.clone()).written,
            "exchangers": self.set.exchangers,
            "records": records,
            "notes": notes,
        })
    }

    /// For people, and for a zone file.
    pub(super) fn lines(&self) -> Vec<String> {
        let title = Name::from(self.name.clone());
        let proofs = self.fingerprints.iter().map(|key| records::proof(self.name.as_str(), *key));
        let mx = self.set.exchangers.iter().map(|exchanger| records::mx(self.name, exchanger));
        let mut lines = vec![comment(&title.to_string()), String::new(), comment(PROOF)];
        lines.extend(proofs);
        lines.extend([String::new(), comment(EXCHANGERS)]);
        lines.extend(mx);
        lines.extend(self.gaps().map(|gap| comment(&gap)));
        lines.push(String::new());
        for exchanger in &self.set.exchangers {
            lines.extend(self.ways(exchanger).into_iter().map(|way| comment(&way)));
            lines.extend(records::addresses(exchanger));
        }
        lines.push(String::new());
        lines.extend(DANE.map(comment));
        lines.extend(self.tlsa());
        lines.extend(self.key_notes().map(|note| comment(&note)));
        lines
    }

    /// What is to be found in the DNS.
    pub(super) fn wanted(&self) -> anyhow::Result<(DomainName, Wanted)> {
        let apex = apex(self.name);
        // The same lines that an owner pastes.
        let text = self.lines().join("\n");
        let records = included::parse(text.as_bytes(), Path::new("records"), &apex)?;
        let records: Vec<_> = records.into_iter().map(|included| included.record).collect();
        let sets = important(&apex, &records);
        Ok((self.name.clone(), Wanted { apex, made_here: None, sets }))
    }

    fn gaps(&self) -> impl Iterator<Item = String> {
        self.set.gaps.iter().map(|gap| records::gap(self.name, gap))
    }

    fn names(&self) -> impl Iterator<Item = &MxName> {
        self.set.exchangers.iter().map(|exchanger| &exchanger.name)
    }

    /// How senders get through at an exchanger.
    fn ways(&self, exchanger: &Exchanger) -> Vec<String> {
        let Exchanger { preference, relay, .. } = exchanger;
        let ways: BTreeSet<_> = exchanger.addresses.iter().map(|address| address.way).collect();
        let second = self.set.exchangers.iter().find(|other| {
            other.relay == *relay && other.addresses.iter().any(|it| it.way == Way::PairSecond)
        });
        let words = |way| match (way, second) {
            (Way::Own, _) => "this box's own address. No sender needs to name it in TLS".into(),
            (Way::PairFirst, Some(second)) => format!(
                "with {} a pair of shared addresses, whose order tells this box from others for \
                 senders that name nobody in TLS. Publish both or neither, in this order",
                second.preference
            ),
            (Way::PairSecond, _) => "the second of the pair".into(),
            (Way::Shared, _) | (Way::PairFirst, None) => format!(
                "a shared address, good for senders that name {} in TLS. Postfix, Exim and Sendmail \
                 do not by default, and cannot deliver here",
                exchanger.name
            ),
        };
        ways.into_iter().map(|way| format!("MX {preference}, {relay}: {}.", words(way))).collect()
    }

    fn tlsa(&self) -> Vec<String> {
        let Ok(keys) = self.keys else { return Vec::new() };
        let shown = |name| keys.get(name).into_iter().flatten().map(move |shown| (name, shown));
        self.names().flat_map(shown).map(|(name, shown)| records::tlsa(name, &shown.key)).collect()
    }

    /// What is wrong with the key or the certificate, or not known of it.
    fn key_notes(&self) -> impl Iterator<Item = String> {
        let unknown = self.keys.as_ref().err().map(|error| {
            format!(
                "The key is not known: {error}. When the mail server can be reached, type this again."
            )
        });
        let keys = self.keys.iter().flatten();
        let unnamed: Vec<_> = keys
            .filter(|(name, _)| self.names().any(|used| used == *name))
            .filter(|(_, shown)| shown.iter().any(|shown| !shown.names_it))
            .map(|(name, _)| name.as_str())
            .collect();
        let unnamed = (!unnamed.is_empty()).then(|| {
            format!(
                "WARNING: the certificate does not name {}. Senders that compare names (MTA-STS) do \
                 not deliver there; DANE does not mind. One certificate should name all MX names.",
                unnamed.join(", ")
            )
        });
        unknown.into_iter().chain(unnamed)
    }
}

fn comment(text: &str) -> String {
    format!("; {text}")
}

fn is_record(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(';')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::certificate::Shown;
    use crate::registration::mx_set::tests::holding;
    use crate::registration::mx_set::{Known, mx_set};
    use sealpost_tunnel::Identity;
    use sealpost_tunnel::request::Standing;
    use std::collections::BTreeMap;

    fn name(text: &str) -> MxName {
        text.parse().unwrap()
    }

    fn set(standing: &Standing) -> MxSet {
        let known = Known { relay: "r1", standing: Some(standing) };
        mx_set(&"a.example".parse().unwrap(), &[known])
    }

    fn zone(set: &MxSet, keys: &Keys) -> (Vec<String>, Value) {
        let fingerprints = [Identity::ephemeral().public().fingerprint()];
        let domain = "a.example".parse().unwrap();
        let zone = Zone { name: &domain, set, fingerprints: &fingerprints, keys };
        (zone.lines(), zone.json())
    }

    fn shown(key: &str, names_it: bool) -> Vec<Shown> {
        vec![Shown { key: key.into(), names_it }]
    }

    #[test]
    fn the_whole_set_is_one_block_to_paste() {
        let set = set(&holding(&["2001:db8:1::a"], true, &[], "mx mx2 mx3"));
        let keys = ["mx", "mx2", "mx3"]
            .map(|label| (name(&format!("{label}.a.example")), shown("ab", true)));
        let (lines, json) = zone(&set, &Ok(BTreeMap::from(keys)));
        let records: Vec<_> = lines.iter().filter(|line| is_record(line)).collect();
        assert!(records[0].starts_with("_sealpost.a.example. 3600 IN TXT \"sealpost1 box="));
        assert_eq!(
            records[1..],
            [
                "a.example. 3600 IN MX 10 mx.a.example.",
                "a.example. 3600 IN MX 20 mx2.a.example.",
                "a.example. 3600 IN MX 30 mx3.a.example.",
                "mx.a.example. 3600 IN AAAA 2001:db8:1::a",
                "mx2.a.example. 3600 IN A 203.0.113.11",
                "mx3.a.example. 3600 IN A 203.0.113.22",
                "_25._tcp.mx.a.example. 3600 IN TLSA 3 1 1 ab",
                "_25._tcp.mx2.a.example. 3600 IN TLSA 3 1 1 ab",
                "_25._tcp.mx3.a.example. 3600 IN TLSA 3 1 1 ab",
            ]
        );
        assert_eq!(json["records"], json!(records));
        assert_eq!(json["notes"], json!([]));
        assert_eq!(json["exchangers"][2]["addresses"][0]["way"], "pair-second");
        let text = lines.join("\n");
        for words in [
            "; MX 10, r1: this box's own",
            "; MX 20, r1: with 30 a pair",
            "; MX 30, r1: the second",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("WARNING") && !text.contains("shared address, good"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_a_comment_that_says_what_to_do() {
        let set = set(&holding(&[], false, &["203.0.113.1"], "mx"));
        let (lines, json) = zone(&set, &Err("no answer".into()));
        let text = lines.join("\n");
        assert!(
            text.contains("; MX 20, r1: a shared address, good for senders that name mx.a.example")
        );
        assert!(text.contains("; The key is not known: no answer."), "{text}");
        assert!(!text.contains("TLSA 3 1 1"));
        assert_eq!(json["notes"].as_array().unwrap().len(), 1);
        assert!(lines.iter().filter(|line| is_record(line)).all(|line| line.contains(" IN ")));
    }

    #[test]
    fn a_server_with_two_keys_gets_both_and_names_that_are_not_in_a_certificate_are_told() {
        let set = set(&holding(&["203.0.113.7"], false, &["2001:db8::1"], "mx mx2"));
        let two = [shown("aa", true), shown("bb", true)].concat();
        let keys = BTreeMap::from([
            (name("mx.a.example"), two),
            (name("mx2.a.example"), shown("aa", false)),
            (name("mx.b.example"), shown("aa", false)),
        ]);
        let (lines, json) = zone(&set, &Ok(keys));
        let tlsa: Vec<_> = lines.iter().filter(|line| line.contains(" TLSA ")).collect();
        assert_eq!(tlsa.len(), 3, "{tlsa:?}");
        assert!(
            lines.last().unwrap().contains("does not name mx2.a.example. Senders"),
            "{lines:?}"
        );
        assert_eq!(json["notes"].as_array().unwrap().len(), 1);
    }
}
