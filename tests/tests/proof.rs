//! Whether a domain names a box, asked of real name servers and resolvers: honest ones, broken
//! ones and ones that lie. The question comes out of the relay's machine, as a relay asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sealpost_relay::proof::{Parent, ProofSettings, Prover, Verdict, record};
use sealpost_tests::network::{NAME_SERVER, Network};
use sealpost_tests::packages::unpacked;
use sealpost_tests::scene::{allowed, with_log_tails};
use sealpost_tests::zones::{Zone, Zones};
use sealpost_tunnel::{Fingerprint, Identity};

/// The second name server of some zones.
const SECOND: &str = "198.51.100.2";
/// A name server that is not there.
const DEAD: &str = "198.51.100.3";
/// A name server that answers one octet a second.
const DRIPPING: &str = "198.51.100.4";
const HONEST: [&str; 3] = ["198.51.100.51", "198.51.100.52", "198.51.100.53"];
/// Tells lies about unsigned zones and signed ones.
const LIAR: &str = "198.51.100.61";
/// Says that zones have name servers which only it knows.
const SHOWING: &str = "198.51.100.62";
/// Resolvers that are not there.
const AWAY: [&str; 2] = ["198.51.100.71", "198.51.100.72"];

const ROOT: Zone<'_> = Zone { origin: ".", file: "root" };
const SIGNED: Zone<'_> = Zone { origin: "signed.example.", file: "signed" };
const NSEC3: Zone<'_> = Zone { origin: "nsec3.example.", file: "nsec3" };
const DEEP: Zone<'_> = Zone { origin: "deep.nsec3.example.", file: "deep" };
const FORGED: Zone<'_> = Zone { origin: "forged.example.", file: "forged" };
const STRIPPED: Zone<'_> = Zone { origin: "stripped.example.", file: "stripped" };
const UNSIGNED: Zone<'_> = Zone { origin: "unsigned.example.", file: "unsigned" };
const SPLIT: Zone<'_> = Zone { origin: "split.example.", file: "split" };
const SPLIT_OLD: Zone<'_> = Zone { origin: "split.example.", file: "split-old" };

/// What stands in zones of every kind, for the box with the key `mine`.
fn records(zone: Zone<'_>, mine: Fingerprint) -> String {
    let origin = zone.origin;
    let text = record::text(mine);
    let other = record::text(Identity::ephemeral().public().fingerprint());
    let (one, two) = text.split_at(20);
    let many = (0..70).map(|i| format!("_sealpost.many.{origin} TXT \"{i}\"\n"));
    format!(
        "{origin} NS ns.world.\n\
         _sealpost.{origin} TXT \"{text}\"\n\
         _sealpost.beside.{origin} TXT \"v=spf1 -all\"\n\
         _sealpost.beside.{origin} TXT \"{other}\"\n\
         _sealpost.beside.{origin} TXT \"{one}\" \"{two}\"\n\
         _sealpost.beside.{origin} TXT \"{long}\" \"{long}\" \"{long}\" \"{long}\"\n\
         _sealpost.beside.{origin} TXT \"1{long}\" \"{long}\" \"{long}\" \"{long}\"\n\
         _sealpost.wrong.{origin} TXT \"{other}\"\n\
         _sealpost.faulty.{origin} TXT \"{one}\"\n\
         _sealpost.alias.{origin} CNAME _sealpost.{origin}\n\
         *.star.{origin} A 192.0.2.1\n\
         _sealpost.elsewhere.{origin} NS ns2.world.\n\
         {many}",
        long = "x".repeat(200),
        many = many.collect::<String>(),
    )
}

/// Sets up the whole internet: its root, some zones, and resolvers.
fn internet<'a>(network: &'a Network, mine: Fingerprint) -> Result<Zones<'a>> {
    let mut zones = Zones::on(&network.internet);
    let mut delegations = String::new();
    for zone in [SIGNED, FORGED] {
        zones.write(zone, &records(zone, mine))?;
        delegations += &zones.sign(zone, &[])?;
    }
    zones.write(NSEC3, &format!("{}deep.nsec3.example. NS ns.world.\n", records(NSEC3, mine)))?;
    delegations += &zones.sign(NSEC3, &["-n", "-p"])?;
    // Signed in the parent's eyes, but served without signatures.
    zones.write(STRIPPED, &records(STRIPPED, mine))?;
    delegations += &zones.sign(STRIPPED, &[])?;
    zones.write(STRIPPED, &records(STRIPPED, mine))?;
    for zone in [UNSIGNED, DEEP] {
        zones.write(zone, &records(zone, mine))?;
    }
    for zone in [SPLIT, SPLIT_OLD] {
        zones.write(zone, &format!("{}{} NS ns2.world.\n", records(zone, mine), zone.origin))?;
    }
    network.internet.run("sed -i '/^_sealpost.split.example/d' /etc/zones/split-old")?;
    for zone in [SIGNED, NSEC3, FORGED, STRIPPED, UNSIGNED, SPLIT] {
        delegations += &format!("{} NS ns.world.\n", zone.origin);
    }
    delegations += &format!(
        "split.example. NS ns2.world.\n\
         lame.example. NS ns2.world.\n\
         ns.world. A {NAME_SERVER}\n\
         ns2.world. A {SECOND}\n\
         dead.world. A {DEAD}\n\
         dripping.world. A {DRIPPING}\n\
         inside.world. A 127.0.0.1\ninside.world. A 10.20.0.1\ninside.world. AAAA fd00::1\n\
         lame.world. A {SECOND}\n\
         evil.world. A {SECOND}\n\
         . NS ns.world.\n\
         _sealpost.rooted.example. TXT \"{}\"\n",
        record::text(mine)
    );
    zones.write(ROOT, &delegations)?;
    zones.sign(ROOT, &[])?;
    zones.serve(NAME_SERVER, &[ROOT, SIGNED, NSEC3, DEEP, FORGED, STRIPPED, UNSIGNED, SPLIT])?;
    zones.serve(SECOND, &[SPLIT_OLD])?;
    for address in HONEST {
        zones.resolve(address, NAME_SERVER, "")?;
    }
    let shown = ["dead", "dripping", "inside", "lame"].map(|name| {
        format!(
            "  local-zone: \"{name}.example.\" static\n  \
             local-data: \"{name}.example. SOA {name}.world. master.world. 1 1 1 1 1\"\n  \
             local-data: \"{name}.example. NS {name}.world.\"\n"
        )
    });
    zones.resolve(SHOWING, NAME_SERVER, &shown.concat())?;
    let text = record::text(mine);
    let lie = |name: &str| format!("  local-data: '_sealpost.{name} TXT \"{text}\"'\n");
    let denial = |name: &str| format!("  local-zone: \"_sealpost.{name}\" always_nxdomain\n");
    let lies = [
        lie("none.unsigned.example."),
        lie("none.signed.example."),
        denial("unsigned.example."),
        denial("signed.example."),
        "  local-zone: \"deep.nsec3.example.\" typetransparent\n\
         \x20 local-data: \"deep.nsec3.example. NS evil.world.\"\n"
            .into(),
        format!(
            "  local-zone: \"forged.example.\" typetransparent\n\
             \x20 local-data: \"forged.example. DS 1 13 2 {}\"\n",
            "ab".repeat(32)
        ),
    ];
    zones.resolve(LIAR, NAME_SERVER, &lies.concat())?;
    Ok(zones)
}

struct Asker<'a> {
    network: &'a Network,
    settings: ProofSettings,
    key: Fingerprint,
}

impl Asker<'_> {
    fn settings(&self, resolvers: &[&str]) -> Result<ProofSettings> {
        let address = |ip: &&str| Ok(SocketAddr::new(ip.parse()?, 53));
        let resolvers = resolvers.iter().map(address).collect::<Result<_>>()?;
        Ok(ProofSettings { resolvers, ..self.settings.clone() })
    }

    fn ask(&self, resolvers: &[&str], domain: &str, claim: bool) -> Result<Verdict> {
        let settings = self.settings(resolvers)?;
        let domain = domain.parse()?;
        self.network.relay.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let prover = Prover::new(&settings)?;
                Ok(if claim {
                    prover.check_claim(&domain, self.key).await
                } else {
                    prover.check(&domain, self.key).await
                })
            })
        })
    }

    fn parent(&self, resolvers: &[&str], domain: &str) -> Result<Parent> {
        let (settings, domain) = (self.settings(resolvers)?, domain.parse()?);
        self.network.relay.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let parent = runtime
                .block_on(async { anyhow::Ok(Prover::new(&settings)?.parent(&domain).await) })?;
            println!("{domain}: {parent:?}");
            Ok(parent)
        })
    }

    fn expect_found(&self, resolvers: &[&str], domain: &str) -> Result<()> {
        for claim in [true, false] {
            let verdict = self.ask(resolvers, domain, claim)?;
            ensure!(verdict == Verdict::Found, "{domain} by {resolvers:?}: {verdict:?}");
        }
        Ok(())
    }

    fn expect_absent(&self, resolvers: &[&str], domain: &str, reason: &str) -> Result<()> {
        let claim = self.ask(resolvers, domain, true)?;
        ensure!(claim != Verdict::Found, "{domain} by {resolvers:?}: {claim:?}");
        let verdict = self.ask(resolvers, domain, false)?;
        println!("{domain}: {verdict:?}");
        let said = matches!(&verdict, Verdict::Absent(said) if said.contains(reason));
        ensure!(said, "{domain} by {resolvers:?}: {verdict:?}");
        Ok(())
    }

    fn expect_unclear(&self, resolvers: &[&str], domain: &str, reason: &str) -> Result<()> {
        let start = Instant::now();
        for claim in [true, false] {
            let verdict = self.ask(resolvers, domain, claim)?;
            println!("{domain}: {verdict:?}");
            let said = matches!(&verdict, Verdict::Unclear(said) if said.contains(reason));
            ensure!(said, "{domain} by {resolvers:?}: {verdict:?}");
        }
        ensure!(start.elapsed() < Duration::from_secs(24), "{domain}: {:?}", start.elapsed());
        Ok(())
    }
}

fn with_internet(play: impl FnOnce(&mut Zones<'_>, &Asker<'_>) -> Result<()>) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let network = Network::start(&std::env::temp_dir(), &unpacked("dns")?, &[], &[])?;
    with_log_tails(&network, || {
        let key = Identity::ephemeral().public().fingerprint();
        let mut zones = internet(&network, key)?;
        let settings =
            ProofSettings { trust_anchor: Some(zones.anchor(ROOT)), ..ProofSettings::default() };
        play(&mut zones, &Asker { network: &network, settings, key })
    })
}

#[test]
fn records_in_signed_and_unsigned_zones_are_found_or_missed() -> Result<()> {
    with_internet(|_, asker| {
        for resolvers in [&HONEST[..], &HONEST[..2], &HONEST[..1]] {
            for zone in
                ["signed.example", "nsec3.example", "unsigned.example", "deep.nsec3.example"]
            {
                asker.expect_found(resolvers, zone)?;
            }
        }
        asker.expect_found(&HONEST, "rooted.example")?;
        for zone in ["signed.example", "nsec3.example", "unsigned.example", "deep.nsec3.example"] {
            // Long enough for TCP.
            asker.expect_found(&HONEST, &format!("beside.{zone}"))?;
            for none in ["none", "star", "any.star"] {
                asker.expect_absent(&HONEST, &format!("{none}.{zone}"), "There is no record")?;
            }
            asker.expect_absent(&HONEST, &format!("wrong.{zone}"), "names another box")?;
            asker.expect_absent(&HONEST, &format!("faulty.{zone}"), "cut off")?;
            asker.expect_absent(&HONEST, &format!("alias.{zone}"), "is an alias (CNAME)")?;
            let many = format!("many.{zone}");
            asker.expect_unclear(&HONEST, &many, "has more than 64 TXT records there")?;
        }
        asker.expect_absent(&HONEST, "unregistered.example", "There is no record")?;
        Ok(())
    })
}

#[test]
fn what_the_parent_says_of_keys_counts_with_its_signature_alone() -> Result<()> {
    with_internet(|zones, asker| {
        for zone in [SIGNED, NSEC3, STRIPPED] {
            let domain = zone.origin.trim_end_matches('.');
            let Parent::Signed(records) = asker.parent(&HONEST, domain)? else {
                anyhow::bail!("{domain} has a DS record")
            };
            let [record] = records.as_slice() else { anyhow::bail!("{records:?}") };
            let anchor = std::fs::read_to_string(zones.anchor(zone))?;
            let tag = anchor.split("id = ").nth(1).and_then(|rest| rest.split(' ').next());
            ensure!(tag == Some(record.key_tag().to_string().as_str()), "{anchor}: {record:?}");
        }
        // Denied by NSEC; by NSEC3 that opts out; beneath what is not signed; not there at all.
        let unsigned =
            ["unsigned.example", "deep.nsec3.example", "none.unsigned.example", "gone.example"];
        for domain in unsigned {
            for resolvers in [&HONEST[..], &[HONEST[0], LIAR, HONEST[1]]] {
                let parent = asker.parent(resolvers, domain)?;
                ensure!(parent == Parent::Unsigned, "{domain} by {resolvers:?}: {parent:?}");
            }
        }
        // A record that the parent did not sign.
        let lied = asker.parent(&[LIAR], "forged.example")?;
        ensure!(matches!(lied, Parent::Unclear(_)), "{lied:?}");
        let outvoted = asker.parent(&[HONEST[0], LIAR, HONEST[1]], "forged.example")?;
        ensure!(matches!(&outvoted, Parent::Signed(records) if records.len() == 1), "{outvoted:?}");
        let away = asker.parent(&AWAY, "signed.example")?;
        ensure!(matches!(&away, Parent::Unclear(why) if why.contains("no answer")), "{away:?}");
        Ok(())
    })
}

#[test]
fn zones_that_are_not_in_step_or_not_as_signed_prove_nothing() -> Result<()> {
    with_internet(|_, asker| {
        let names = format!("ns2.world ({SECOND}) without it");
        asker.expect_unclear(&HONEST, "split.example", &names)?;
        for resolvers in [&HONEST[..], &HONEST[..1]] {
            asker.expect_unclear(
                resolvers,
                "stripped.example",
                "signatures (DNSSEC) are invalid",
            )?;
        }
        let delegated = asker.ask(&HONEST, "elsewhere.unsigned.example", true)?;
        ensure!(delegated != Verdict::Found, "{delegated:?}");
        asker.expect_unclear(&HONEST, "lame.example", "could not find out (SERVFAIL)")?;
        asker.expect_unclear(&[SHOWING], "lame.example", "refuses to answer (REFUSED)")?;
        asker.expect_unclear(&[SHOWING], "inside.example", "is an address of a private network")
    })
}

#[test]
fn a_record_that_was_changed_after_signing_is_no_proof() -> Result<()> {
    with_internet(|zones, asker| {
        let mine = asker.key.to_string();
        asker.expect_found(&HONEST, "forged.example")?;
        let key = Identity::ephemeral().public().fingerprint();
        let thief = Asker { key, settings: asker.settings.clone(), ..*asker };
        let theft =
            format!("sed -i 's/{mine}/{}/; s/ 1 3600 / 2 3600 /' /etc/zones/forged", thief.key);
        asker.network.internet.run(&theft)?;
        zones.reload(NAME_SERVER, FORGED)?;
        // Resolvers that were not asked before, so that they cannot remember.
        zones.resolve("198.51.100.81", NAME_SERVER, "")?;
        let fresh = ["198.51.100.81"];
        thief.expect_unclear(&fresh, "forged.example", "signatures (DNSSEC) are invalid")
    })
}

#[test]
fn one_resolver_that_lies_or_fails_changes_nothing() -> Result<()> {
    with_internet(|_, asker| {
        let resolvers = [HONEST[0], LIAR, HONEST[1]];
        for zone in ["signed.example", "unsigned.example", "deep.nsec3.example"] {
            asker.expect_found(&resolvers, zone)?;
            asker.expect_absent(&resolvers, &format!("none.{zone}"), "There is no record")?;
        }
        let resolvers = [HONEST[0], AWAY[0], HONEST[1]];
        asker.expect_found(&resolvers, "signed.example")?;
        asker.expect_absent(&resolvers, "none.signed.example", "There is no record")?;
        // Alone it can hinder, but not prove what the domain's own servers do not say.
        for domain in ["none.unsigned.example", "none.signed.example", "unsigned.example"] {
            for claim in [true, false] {
                let verdict = asker.ask(&[LIAR], domain, claim)?;
                ensure!(matches!(verdict, Verdict::Unclear(_)), "{domain}: {verdict:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn who_asks_too_early_may_ask_again_at_once() -> Result<()> {
    with_internet(|zones, asker| {
        let domain = "late.unsigned.example";
        let early = asker.ask(&HONEST, domain, true)?;
        ensure!(matches!(early, Verdict::Unclear(_)), "{early:?}");
        let text = record::text(asker.key);
        asker.network.internet.run(&format!(
            "cd /etc/zones; sed -i 's/ 1 3600 / 2 3600 /' unsigned
             echo '_sealpost.{domain}. TXT \"{text}\"' >> unsigned"
        ))?;
        zones.reload(NAME_SERVER, UNSIGNED)?;
        asker.expect_found(&HONEST, domain)
    })
}

#[test]
fn silence_ends_in_bounded_time_and_changes_nothing() -> Result<()> {
    with_internet(|zones, asker| {
        asker.expect_unclear(&AWAY, "signed.example", "could not be found")?;
        asker.expect_unclear(&[HONEST[0], AWAY[0], AWAY[1]], "signed.example", "too few")?;
        asker.expect_unclear(&[SHOWING], "dead.example", "None of the name servers")?;
        zones.at(DRIPPING)?;
        let (packets, streams) = asker
            .network
            .internet
            .enter(|| Ok((UdpSocket::bind((DRIPPING, 53))?, TcpListener::bind((DRIPPING, 53))?)))?;
        thread::spawn(move || drip_packets(&packets));
        thread::spawn(move || drip_streams(&streams));
        asker.expect_unclear(&[SHOWING], "dripping.example", "no answer within 3 s")
    })
}

/// Sends everybody to TCP.
fn drip_packets(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // A response, and cut off.
        buffer[2] |= 0x82;
        socket.send_to(&buffer[..length], from)?;
    }
}

fn drip_streams(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        thread::spawn(move || -> Result<()> {
            let _ = stream.read(&mut [0; 1500])?;
            stream.write_all(&1000u16.to_be_bytes())?;
            loop {
                stream.write_all(&[0])?;
                thread::sleep(Duration::from_millis(200));
            }
        });
    }
}
