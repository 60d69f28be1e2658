//! The zones that are served and the questions about them.

use std::fmt::Write as _;

use anyhow::Result;
use domain::base::{MessageBuilder, Name, Rtype};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sealpost_tests::name_server::{Denial, Signer, ZoneFiles};

/// Of a zone with many names.
const MANY: usize = 10_000;
/// Questions of a mix, which are asked again and again.
const QUESTIONS: usize = 50_000;
const MAIL: &str = "mail.example.";
const LARGE: &str = "large.example.";

/// A zone as a mail domain has it, unsigned. Its names are below `apex`.
fn mail(apex: &str) -> String {
    let key = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAvf9kYQAAsDFsL6mTgFDaS0mDp1Qx".repeat(3);
    let tlsa = "0123456789abcdef".repeat(4);
    format!(
        "$TTL 3600\n$ORIGIN {apex}\n\
         @ IN SOA ns1.{apex} admin.{apex} 1 14400 3600 1814400 300\n\
         @ IN NS ns1\n@ IN NS ns2\n@ IN MX 10 mx1\n@ IN MX 20 mx2\n\
         @ IN A 192.0.2.1\n@ IN AAAA 2001:db8::1\n\
         @ IN TXT \"v=spf1 mx -all\"\n@ IN CAA 0 issue \"letsencrypt.org\"\n\
         ns1 IN A 192.0.2.1\nns1 IN AAAA 2001:db8::1\nns2 IN A 192.0.2.2\nns2 IN AAAA 2001:db8::2\n\
         mx1 300 IN A 192.0.2.1\nmx1 300 IN AAAA 2001:db8::1\n\
         mx2 300 IN A 192.0.2.2\nmx2 300 IN AAAA 2001:db8::2\n\
         _25._tcp.mx1 IN TLSA 3 1 1 {tlsa}\n_25._tcp.mx2 IN TLSA 3 1 1 {tlsa}\n\
         _dmarc IN TXT \"v=DMARC1; p=reject; rua=mailto:postmaster@{apex}\"\n\
         _mta-sts IN TXT \"v=STSv1; id=1\"\n_smtp._tls IN TXT \"v=TLSRPTv1; rua=mailto:tls@{apex}\"\n\
         s1._domainkey IN TXT \"v=DKIM1; k=rsa; p={key}\"\n"
    )
}

/// What is served in the rounds for speed: a mail zone and one with many names, signed.
pub(crate) fn for_speed(signer: &Signer) -> Result<ZoneFiles> {
    let mut zones = ZoneFiles::new()?;
    zones.add(MAIL, &signer.sign(MAIL, &mail(MAIL), Denial::Nsec)?)?;
    let mut large = format!(
        "$TTL 3600\n{LARGE} IN SOA ns.{LARGE} admin.{LARGE} 1 14400 3600 1814400 300\n\
         {LARGE} IN NS ns.{LARGE}\nns.{LARGE} IN A 192.0.2.1\n"
    );
    for at in 0..MANY {
        // Writing to a string does not fail.
        let _ = writeln!(large, "host{at}.{LARGE} IN A 192.0.2.{}", at % 256);
    }
    zones.add(LARGE, &signer.sign(LARGE, &large, Denial::Nsec)?)?;
    Ok(zones)
}

/// As many signed mail zones, each with the signatures of the first: name servers do not look at them.
pub(crate) fn many(signer: &Signer, count: usize) -> Result<ZoneFiles> {
    let model = "z0000000.example.";
    let text = signer.sign(model, &mail(model), Denial::Nsec)?;
    let mut zones = ZoneFiles::new()?;
    for at in 0..count {
        let apex = format!("z{at:07}.example.");
        zones.add(&apex, &text.replace(model, &apex))?;
    }
    Ok(zones)
}

/// As many zones of five records without signatures.
pub(crate) fn small(count: usize) -> Result<ZoneFiles> {
    let mut zones = ZoneFiles::new()?;
    for at in 0..count {
        let apex = format!("z{at:07}.example.");
        let text = format!(
            "{apex} 3600 IN SOA ns.{apex} admin.{apex} 1 14400 3600 1814400 300\n\
             {apex} 3600 IN NS ns.{apex}\n{apex} 3600 IN MX 10 mx.{apex}\n\
             ns.{apex} 3600 IN A 192.0.2.1\nmx.{apex} 3600 IN A 192.0.2.2\n"
        );
        zones.add(&apex, &text)?;
    }
    Ok(zones)
}

/// A new version of the small zone with the number 0.
pub(crate) fn successor(serial: u32) -> (&'static str, String) {
    let apex = "z0000000.example.";
    let text = format!(
        "{apex} 3600 IN SOA ns.{apex} admin.{apex} {serial} 14400 3600 1814400 300\n\
         {apex} 3600 IN NS ns.{apex}\n{apex} 3600 IN MX 10 mx.{apex}\n\
         ns.{apex} 3600 IN A 192.0.2.1\nmx.{apex} 3600 IN A 192.0.2.2\n"
    );
    (apex, text)
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// What sending mail servers ask of a mail zone.
    Mail,
    /// Names that are not there.
    NxDomain,
    /// The addresses of many names.
    Large,
    /// The MX of the zone that [`successor`] replaces.
    Swapped,
}

impl Mix {
    pub(crate) const SPEED: [Mix; 3] = [Mix::Mail, Mix::NxDomain, Mix::Large];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mix::Mail => "mail zone",
            Mix::NxDomain => "NXDOMAIN",
            Mix::Large => "10,000 names",
            Mix::Swapped => "one zone",
        }
    }

    /// The questions, with the DO bit.
    pub(crate) fn questions(self) -> Result<Vec<Vec<u8>>> {
        let mut random = StdRng::seed_from_u64(5);
        let mut questions: Vec<Vec<u8>> = match self {
            Mix::Mail => {
                let all = [
                    question(MAIL, Rtype::MX)?,
                    question(&format!("mx1.{MAIL}"), Rtype::A)?,
                    question(&format!("mx1.{MAIL}"), Rtype::AAAA)?,
                    question(&format!("_25._tcp.mx1.{MAIL}"), Rtype::TLSA)?,
                    question(MAIL, Rtype::TXT)?,
                    question(&format!("_dmarc.{MAIL}"), Rtype::TXT)?,
                    question(&format!("s1._domainkey.{MAIL}"), Rtype::TXT)?,
                    question(MAIL, Rtype::NS)?,
                ];
                all.iter().cycle().take(QUESTIONS).cloned().collect()
            }
            Mix::NxDomain => (0..QUESTIONS)
                .map(|_| {
                    let letters = (0..8).map(|_| char::from(random.random_range(b'a'..=b'z')));
                    question(&format!("{}.{MAIL}", letters.collect::<String>()), Rtype::A)
                })
                .collect::<Result<_>>()?,
            Mix::Large => (0..QUESTIONS)
                .map(|_| {
                    let host = random.random_range(0..MANY);
                    question(&format!("host{host}.{LARGE}"), Rtype::A)
                })
                .collect::<Result<_>>()?,
            Mix::Swapped => vec![question(successor(0).0, Rtype::MX)?; QUESTIONS],
        };
        questions.shuffle(&mut random);
        Ok(questions)
    }
}

/// A message that asks it, with the DO bit.
fn question(name: &str, rtype: Rtype) -> Result<Vec<u8>> {
    /// What resolvers take by UDP (the DNS flag day of 2020).
    const PAYLOAD: u16 = 1232;
    let mut message = MessageBuilder::new_vec().question();
    message.push((name.parse::<Name<Vec<u8>>>()?, rtype))?;
    let mut message = message.additional();
    message.opt(|opt| {
        opt.set_udp_payload_size(PAYLOAD);
        opt.set_dnssec_ok(true);
        Ok(())
    })?;
    Ok(message.finish())
}
