//! The records of a zone out of its plan, without signatures. Pure.
//!
//! Records are built as what they are and never as text: text has rules for dots, quotes and
//! escapes, and one forgotten rule makes a wrong record that no parser complains about.

use std::net::IpAddr;

use bytes::Bytes;
use domain::base::iana::{Class, TlsaCertificateUsage, TlsaMatchingType, TlsaSelector};
use domain::base::name::PushError;
use domain::base::{NameBuilder, Record as AnyRecord, Serial, Ttl};
use domain::rdata::caa::{CaaFlags, CaaTag};
use domain::rdata::{A, Aaaa, Caa, Mx, Ns, Soa, Tlsa, Txt};
use sealpost_dns::record::{Data, Name, Record};

use super::plan::{Authority, Dkim, Host, MtaSts, Plan};

/// How long resolvers may keep most records, in seconds.
pub const TTL: Ttl = Ttl::HOUR;
/// How long they may keep what may have to change in a hurry: addresses of relays and challenges.
pub const SHORT_TTL: Ttl = Ttl::from_secs(300);
/// How often a secondary asks whether there is a new zone, should it miss the word of it.
const REFRESH: Ttl = Ttl::from_secs(4 * 3600);
/// How often it asks again when nobody answers.
const RETRY: Ttl = Ttl::HOUR;
/// How long it serves the zone when nobody answers. Longer than signatures live by default, as they
/// are what limits it.
const EXPIRE: Ttl = Ttl::from_secs(28 * 24 * 3600);
/// How long resolvers may keep the answer that there is nothing (RFC 2308).
const MINIMUM: Ttl = SHORT_TTL;
/// The port that exchangers listen on and its protocol, as labels (RFC 7672 section 2.2.3).
const SMTP: [&str; 2] = ["_25", "_tcp"];
/// Most octets of a DNS name on the wire.
const MAX_NAME: usize = 255;

/// Why there is no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Nobody would serve it.
    #[error("{0} has no name server: name at least one relay that serves zones")]
    NoNameServer(Name),
    /// A name that is built from the plan would be too long.
    #[error("{label} before {below} is not a name: labels have 1 to 63 octets, names {MAX_NAME}")]
    Name {
        /// What comes before.
        label: String,
        /// The rest of it.
        below: Name,
    },
    /// A text is not what it is to be.
    #[error("{what} must {rule}, and {text:?} does not")]
    Text {
        /// What it is for.
        what: &'static str,
        /// What is wrong with it.
        rule: &'static str,
        /// The text.
        text: String,
    },
}

/// The records of a zone with a serial, in no order. That they agree with each other and with the
/// owner's own is asked by [`super::conflicts`].
pub fn records(plan: &Plan, serial: u32) -> Result<Vec<Record>, ContentError> {
    let mut content = Content { apex: &plan.apex, records: Vec::new() };
    content.origin(plan, serial)?;
    for exchanger in &plan.exchangers {
        let mx = Mx::new(exchanger.preference, exchanger.host.name.clone());
        content.push(plan.apex.clone(), TTL, mx);
        content.addresses(&exchanger.host);
        if exchanger.host.name.ends_with(&plan.apex) {
            let name = below(&SMTP, &exchanger.host.name)?;
            for digest in &plan.certificate_keys {
                content.push(name.clone(), TTL, tlsa(digest));
            }
        }
    }
    for key in &plan.dkim {
        content.dkim(key)?;
    }
    content.policies(plan)?;
    content.authorities(&plan.authorities)?;
    for challenge in &plan.challenges {
        let name = below(&["_acme-challenge"], &challenge.name)?;
        content.text(name, SHORT_TTL, "an ACME challenge", &challenge.digest)?;
    }
    for text in &plan.texts {
        content.text(text.name.clone(), TTL, "a text", &text.text)?;
    }
    Ok(content.records)
}

struct Content<'a> {
    apex: &'a Name,
    records: Vec<Record>,
}

impl Content<'_> {
    fn push(&mut self, owner: Name, ttl: Ttl, data: impl Into<Data>) {
        self.records.push(AnyRecord::new(owner, Class::IN, ttl, data.into()));
    }

    /// What makes it a zone.
    fn origin(&mut self, plan: &Plan, serial: u32) -> Result<(), ContentError> {
        let first = plan.name_servers.first();
        let first = first.ok_or_else(|| ContentError::NoNameServer(plan.apex.clone()))?;
        let contact = match &plan.contact {
            Some(contact) => contact.clone(),
            None => below(&["hostmaster"], &plan.apex)?,
        };
        let primary = first.name.clone();
        let soa = Soa::new(primary, contact, Serial(serial), REFRESH, RETRY, EXPIRE, MINIMUM);
        self.push(plan.apex.clone(), TTL, soa);
        for server in &plan.name_servers {
            self.push(plan.apex.clone(), TTL, Ns::new(server.name.clone()));
            self.addresses(server);
        }
        Ok(())
    }

    /// The addresses of a host, where it is for this zone to tell them.
    fn addresses(&mut self, host: &Host) {
        if !host.name.ends_with(self.apex) {
            return;
        }
        for address in &host.addresses {
            let data: Data = match address {
                IpAddr::V4(address) => A::new(*address).into(),
                IpAddr::V6(address) => Aaaa::new(*address).into(),
            };
            self.push(host.name.clone(), SHORT_TTL, data);
        }
    }

    fn dkim(&mut self, key: &Dkim) -> Result<(), ContentError> {
        let labels: Vec<_> = key.selector.split('.').chain(["_domainkey"]).collect();
        let name = below(&labels, self.apex)?;
        self.text(name, TTL, "a DKIM key", &key.text)
    }

    fn policies(&mut self, plan: &Plan) -> Result<(), ContentError> {
        let apex = self.apex;
        if let Some(spf) = &plan.spf {
            // Everything behind the version is for the mail server's people to know.
            starts(spf, "v=spf1", "the SPF policy", "begin with v=spf1")?;
            self.text(apex.clone(), TTL, "the SPF policy", spf)?;
        }
        if let Some(dmarc) = &plan.dmarc {
            starts(dmarc, "v=DMARC1", "the DMARC policy", "begin with v=DMARC1")?;
            self.text(below(&["_dmarc"], apex)?, TTL, "the DMARC policy", dmarc)?;
        }
        if !plan.tls_reports.is_empty() {
            for uri in &plan.tls_reports {
                let clean = !uri.contains([',', ';', ' ', '!']);
                let known = uri.starts_with("mailto:") || uri.starts_with("https:");
                let rule = "be mailto: or https: URIs without comma, semicolon, space or !";
                demand(clean && known, "addresses for TLS reports", rule, uri)?;
            }
            let text = format!("v=TLSRPTv1; rua={}", plan.tls_reports.join(","));
            self.text(
                below(&["_smtp", "_tls"], apex)?,
                TTL,
                "the addresses for TLS reports",
                &text,
            )?;
        }
        if let Some(MtaSts { id, addresses }) = &plan.mta_sts {
            let fits =
                (1..=32).contains(&id.len()) && id.bytes().all(|o| o.is_ascii_alphanumeric());
            demand(fits, "the id of the MTA-STS policy", "have 1 to 32 letters and digits", id)?;
            let text = format!("v=STSv1; id={id};");
            self.text(below(&["_mta-sts"], apex)?, TTL, "the MTA-STS record", &text)?;
            let name = below(&["mta-sts"], apex)?;
            self.addresses(&Host { name, addresses: addresses.clone() });
        }
        Ok(())
    }

    /// Who may issue: each by DNS-01 alone, as a relay answers for the addresses and could pass any
    /// other challenge; and nobody for wildcards, which would name what the relay's address serves.
    fn authorities(&mut self, authorities: &[Authority]) -> Result<(), ContentError> {
        for Authority { domain, account } in authorities {
            let clean = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-');
            let fits = !domain.is_empty() && domain.bytes().all(clean);
            demand(fits, "a certificate authority", "be a domain such as letsencrypt.org", domain)?;
            let mut value = domain.clone();
            if let Some(account) = account {
                let clean = |octet: u8| octet.is_ascii_graphic() && octet != b';';
                let fits = account.starts_with("https://") && account.bytes().all(clean);
                demand(fits, "the account there", "be its https:// URI", account)?;
                value.push_str("; accounturi=");
                value.push_str(account);
            }
            value.push_str("; validationmethods=dns-01");
            self.caa("issue", value);
        }
        if !authorities.is_empty() {
            self.caa("issuewild", ";".into());
        }
        Ok(())
    }

    fn caa(&mut self, tag: &'static str, value: String) {
        let tag = CaaTag::from_octets(Bytes::from_static(tag.as_bytes()));
        let tag = tag.expect("the tags here are letters");
        self.push(self.apex.clone(), TTL, Caa::new(CaaFlags::default(), tag, value.into()));
    }

    /// A text, split into strings of 255 octets, which readers put together again.
    fn text(
        &mut self,
        name: Name,
        ttl: Ttl,
        what: &'static str,
        text: &str,
    ) -> Result<(), ContentError> {
        let clean = !text.is_empty() && text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
        demand(clean, what, "be printable ASCII on one line", text)?;
        demand(text.len() <= MAX_TEXT, what, "have at most 4000 characters", text)?;
        let txt = Txt::<Vec<u8>>::build_from_slice(text.as_bytes());
        let txt = txt.expect("shorter than record data may be");
        let octets = Txt::from_octets(Bytes::from(octets(&txt)));
        self.push(name, ttl, octets.expect("as it was built"));
        Ok(())
    }
}

/// The longest text, in characters: what still fits into an answer with its signature over TCP
/// beside others, and four times the longest DKIM key that is of use.
const MAX_TEXT: usize = 4000;

/// A text as it is on the wire.
fn octets(txt: &Txt<Vec<u8>>) -> Vec<u8> {
    let strings = txt.iter_charstrs();
    strings.flat_map(|it| [&[it.len() as u8], it.as_slice()].concat()).collect()
}

/// The key of a mail server (RFC 7672 section 3.1.1): the certificate is its own (3), its public key
/// counts (1), as SHA-256 (1).
fn tlsa(digest: &[u8; 32]) -> Tlsa<Bytes> {
    Tlsa::new(
        TlsaCertificateUsage::DANE_EE,
        TlsaSelector::SPKI,
        TlsaMatchingType::SHA2_256,
        Bytes::copy_from_slice(digest),
    )
}

/// The name with `labels` before `name`.
pub fn below(labels: &[&str], name: &Name) -> Result<Name, ContentError> {
    let build = || -> Result<Name, PushError> {
        let mut builder = NameBuilder::new_bytes();
        for label in labels {
            if label.is_empty() {
                return Err(PushError::LongName);
            }
            builder.append_label(label.as_bytes())?;
        }
        builder.append_origin(name).map_err(|_| PushError::LongName)
    };
    build().map_err(|_| ContentError::Name { label: labels.join("."), below: name.clone() })
}

fn starts(
    text: &str,
    with: &str,
    what: &'static str,
    rule: &'static str,
) -> Result<(), ContentError> {
    let rest = text.strip_prefix(with);
    let whole = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ';']));
    demand(whole, what, rule, text)
}

fn demand(
    fits: bool,
    what: &'static str,
    rule: &'static str,
    text: &str,
) -> Result<(), ContentError> {
    if fits { Ok(()) } else { Err(ContentError::Text { what, rule, text: text.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical;
    use crate::zone::plan::{Challenge, Exchanger, Text};

    fn host(name: &str, addresses: &[&str]) -> Host {
        let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        Host { name: name.parse().unwrap(), addresses }
    }

    fn plan() -> Plan {
        let mut plan = Plan::new("a.example.".parse().unwrap());
        plan.name_servers =
            vec![host("ns.a.example.", &["192.0.2.1"]), host("ns.b.example.", &["192.0.2.9"])];
        plan
    }

    fn lines(plan: &Plan) -> Vec<String> {
        let records = canonical::sort(records(plan, 7).unwrap());
        records.iter().map(|it| it.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn a_bare_zone_has_its_servers_and_the_addresses_that_are_its_own() {
        assert_eq!(
            lines(&plan()),
            [
                "a.example. 3600 IN NS ns.a.example.",
                "a.example. 3600 IN NS ns.b.example.",
                "a.example. 3600 IN SOA ns.a.example. hostmaster.a.example. 7 14400 3600 2419200 300",
                "ns.a.example. 300 IN A 192.0.2.1",
            ]
        );
        let bare = Plan::new("a.example.".parse().unwrap());
        assert!(matches!(records(&bare, 7), Err(ContentError::NoNameServer(_))));
    }

    #[test]
    fn everything_that_mail_needs_is_there() {
        let mut plan = plan();
        plan.exchangers = vec![
            Exchanger {
                preference: 10,
                host: host("mx.a.example.", &["192.0.2.2", "2001:db8::2"]),
            },
            Exchanger { preference: 20, host: host("mx.b.example.", &["192.0.2.3"]) },
        ];
        plan.certificate_keys = vec![[0xab; 32]];
        plan.dkim = vec![Dkim { selector: "s1".into(), text: "v=DKIM1; p=QUJD".into() }];
        plan.spf = Some("v=spf1 mx -all".into());
        plan.dmarc = Some("v=DMARC1; p=reject".into());
        plan.tls_reports = vec!["mailto:t@a.example".into(), "https://t.example/r".into()];
        plan.mta_sts =
            Some(MtaSts { id: "20261122".into(), addresses: vec!["192.0.2.4".parse().unwrap()] });
        plan.authorities = vec![Authority {
            domain: "letsencrypt.org".into(),
            account: Some("https://acme.example/acct/1".into()),
        }];
        let name = "mx.a.example.".parse().unwrap();
        plan.challenges = vec![Challenge { name, digest: "abc_-".into() }];
        plan.texts = vec![Text { name: "_sealpost.a.example.".parse().unwrap(), text: "x".into() }];
        let bare = lines(&self::plan());
        let lines: Vec<_> = lines(&plan).into_iter().filter(|line| !bare.contains(line)).collect();
        let key = "AB".repeat(32);
        assert_eq!(
            lines,
            [
                "a.example. 3600 IN MX 10 mx.a.example.",
                "a.example. 3600 IN MX 20 mx.b.example.",
                "a.example. 3600 IN TXT \"v=spf1 mx -all\"",
                "a.example. 3600 IN CAA 0 issue \"letsencrypt.org; accounturi=https://acme.example/acct/1; \
                 validationmethods=dns-01\"",
                "a.example. 3600 IN CAA 0 issuewild \";\"",
                "_dmarc.a.example. 3600 IN TXT \"v=DMARC1; p=reject\"",
                "s1._domainkey.a.example. 3600 IN TXT \"v=DKIM1; p=QUJD\"",
                "_mta-sts.a.example. 3600 IN TXT \"v=STSv1; id=20261122;\"",
                "_sealpost.a.example. 3600 IN TXT \"x\"",
                "_smtp._tls.a.example. 3600 IN TXT \"v=TLSRPTv1; rua=mailto:t@a.example,https://t.example/r\"",
                "mta-sts.a.example. 300 IN A 192.0.2.4",
                "mx.a.example. 300 IN A 192.0.2.2",
                "mx.a.example. 300 IN AAAA 2001:db8::2",
                "_acme-challenge.mx.a.example. 300 IN TXT \"abc_-\"",
                &format!("_25._tcp.mx.a.example. 3600 IN TLSA 3 1 1 ( {key} )"),
            ]
        );
    }

    #[test]
    fn a_long_text_is_split_where_it_must_be() {
        for length in [1, 254, 255, 256, 510, 511, 4000] {
            let mut plan = plan();
            let text = "x".repeat(length);
            plan.texts = vec![Text { name: plan.apex.clone(), text: text.clone() }];
            let found =
                records(&plan, 7).unwrap().into_iter().find_map(|record| match record.data() {
                    Data::Txt(txt) => {
                        let lengths: Vec<_> = txt.iter_charstrs().map(|it| it.len()).collect();
                        Some((txt.text::<Vec<u8>>(), lengths))
                    }
                    _ => None,
                });
            let (whole, lengths) = found.unwrap();
            assert_eq!(whole, text.as_bytes());
            assert_eq!(lengths.len(), length.div_ceil(255));
            assert!(lengths[..lengths.len() - 1].iter().all(|it| *it == 255));
        }
    }

    #[test]
    fn a_text_that_would_be_read_wrongly_is_refused() {
        type Change = fn(&mut Plan);
        let changes: [(Change, &str); 10] = [
            (|plan| plan.spf = Some("v=spf10 -all".into()), "SPF policy must begin with v=spf1"),
            (|plan| plan.dmarc = Some("p=none".into()), "DMARC policy must begin"),
            (|plan| plan.dmarc = Some("v=DMARC1; p=none\n".into()), "printable ASCII"),
            (|plan| plan.tls_reports = vec!["t@a.example".into()], "mailto: or https:"),
            (|plan| plan.tls_reports = vec!["mailto:a,b".into()], "mailto: or https:"),
            (|plan| plan.mta_sts = Some(MtaSts { id: "a b".into(), addresses: vec![] }), "1 to 32"),
            (|plan| plan.texts = vec![Text { name: plan.apex.clone(), text: "ü".into() }], "ASCII"),
            (
                |plan| plan.texts = vec![Text { name: plan.apex.clone(), text: "x".repeat(4001) }],
                "4000",
            ),
            (
                |plan| plan.authorities = vec![Authority { domain: "x; y".into(), account: None }],
                "be a domain",
            ),
            (
                |plan| plan.dkim = vec![Dkim { selector: "a..b".into(), text: "v=DKIM1".into() }],
                "a..b._domainkey before a.example is not a name",
            ),
        ];
        for (change, words) in changes {
            let mut plan = plan();
            change(&mut plan);
            let error = records(&plan, 7).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
