//! What an owner enters at the registrar of a domain, in all the forms in which registrars ask for
//! it. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::rdata::Ds;
use sealpost_dns::record::Name;
use serde_json::{Value, json};

use crate::zone::zone_key::{ALGORITHM, PublicKey};

/// How long the DS record is to be remembered, in seconds. Most parent zones have their own opinion.
const TTL: u32 = 3600;

/// All that the parent zone should learn of a domain.
#[derive(Debug, Clone)]
pub(in crate::command) struct Entry<'a> {
    pub(in crate::command) apex: &'a Name,
    /// The names of its name servers; none while they are not known.
    pub(in crate::command) name_servers: &'a [Name],
    /// The keys that it should name; none when the domain is to be unsigned.
    pub(in crate::command) keys: &'a [PublicKey],
}

impl Entry<'_> {
    /// For programs.
    pub(in crate::command) fn json(&self) -> Value {
        let keys = self.keys.iter().map(|key| {
            let (ds, dnskey) = (key.ds(self.apex), key.dnskey());
            json!({
                "record": record(self.apex, &ds),
                "key_tag": ds.key_tag(),
                "algorithm": ds.algorithm().to_int(),
                "digest_type": ds.digest_type().to_int(),
                "digest": hex(ds.digest()),
                "flags": dnskey.flags(),
                "protocol": dnskey.protocol(),
                "public_key": STANDARD.encode(dnskey.public_key()),
            })
        });
        json!({
            "domain": plain(self.apex),
            "name_servers": self.name_servers.iter().map(plain).collect::<Vec<_>>(),
            "ds": keys.collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(in crate::command) fn lines(&self) -> Vec<String> {
        let mut lines = self.name_server_lines();
        lines.push(String::new());
        lines.extend(self.ds_lines());
        lines
    }

    fn name_server_lines(&self) -> Vec<String> {
        if self.name_servers.is_empty() {
            return vec![
                "The names of the name servers are not known yet. They are when the agent has \
                 reached a relay that serves zones: sealpost-agent status"
                    .into(),
            ];
        }
        let mut lines = vec![format!(
            "Enter at the registrar of {}, as its name servers, in place of all others:",
            plain(self.apex)
        )];
        lines.extend(self.name_servers.iter().map(|name| format!("  {}", plain(name))));
        lines
    }

    /// The part about the key.
    pub(super) fn ds_lines(&self) -> Vec<String> {
        if self.keys.is_empty() {
            return vec!["Take all DS records out there: the zone is about to be unsigned.".into()];
        }
        let mut lines = vec![
            "And there, where it says DNSSEC, in place of all other DS records or keys:".into(),
        ];
        for key in self.keys {
            let (ds, dnskey) = (key.ds(self.apex), key.dnskey());
            lines.extend([
                format!("  {}", record(self.apex, &ds)),
                "If it asks for the parts of a DS record:".into(),
                format!("  Key tag       {}", ds.key_tag()),
                format!("  Algorithm     {}", algorithm(&ds)),
                format!("  Digest type   {} (SHA-256)", ds.digest_type().to_int()),
                format!("  Digest        {}", hex(ds.digest())),
                "If it asks for the key itself:".into(),
                format!("  Flags         {} (KSK)", dnskey.flags()),
                format!("  Protocol      {}", dnskey.protocol()),
                format!("  Algorithm     {}", dnskey.algorithm().to_int()),
                format!("  Public key    {}", STANDARD.encode(dnskey.public_key())),
            ]);
        }
        lines
    }
}

fn algorithm(ds: &Ds<Bytes>) -> String {
    let number = ds.algorithm().to_int();
    // Those of an owner's own primary may be others.
    let name = if ds.algorithm() == ALGORITHM { " (ECDSA P-256 with SHA-256)" } else { "" };
    format!("{number}{name}")
}

/// A DS record as a line of a zone file.
pub(super) fn record(apex: &Name, ds: &Ds<Bytes>) -> String {
    format!("{}. {TTL} IN DS {}", plain(apex), rdata(ds))
}

/// The data of a DS record.
pub(super) fn rdata(ds: &Ds<Bytes>) -> String {
    let (tag, digest) = (ds.key_tag(), hex(ds.digest()));
    format!("{tag} {} {} {digest}", ds.algorithm().to_int(), ds.digest_type().to_int())
}

fn hex(octets: &Bytes) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect()
}

/// A name without its final dot, as forms want it.
pub(super) fn plain(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::zone_key::{Role, ZoneKey};

    #[test]
    fn the_key_of_the_rfc_is_shown_in_all_forms() {
        // RFC 6605 section 6.1.
        let key = "Private-key-format: v1.2\nAlgorithm: 13 (ECDSAP256SHA256)\n\
            PrivateKey: GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=\n";
        let key = ZoneKey::from_text(key, Role::Entry).unwrap();
        let apex = "example.net.".parse().unwrap();
        let name_servers = ["ns1.relay.example.".parse().unwrap()];
        let keys = [key.public().clone()];
        let entry = Entry { apex: &apex, name_servers: &name_servers, keys: &keys };
        let text = entry.lines().join("\n");
        let digest = "B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17";
        for words in [
            "\n  ns1.relay.example\n",
            &format!("\n  example.net. 3600 IN DS 55648 13 2 {digest}\n"),
            "\n  Key tag       55648\n",
            &format!("\n  Digest        {digest}\n"),
            "\n  Flags         257 (KSK)\n",
            "Public key    GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7w",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let json = entry.json();
        assert_eq!(json["ds"][0]["digest"], digest);
        assert_eq!(json["name_servers"], json!(["ns1.relay.example"]));

        let none = Entry { name_servers: &[], keys: &[], ..entry };
        let text = none.lines().join("\n");
        assert!(text.contains("not known yet") && text.contains("Take all DS records out"));
    }
}
