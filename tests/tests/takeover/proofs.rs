//! Attempts with records in the DNS: missing, misplaced, stale, dangling, aliased.

use anyhow::{Result, ensure};
use sealpost_relay::proof::record;
use sealpost_tunnel::Answer;
use sealpost_tunnel::request::{Refusal, RefusalCode};

use crate::line::Said;
use crate::world::{World, proof};

pub(crate) fn claim_without_a_record(world: &mut World) -> Result<()> {
    for mx in [&[][..], &["mx.home.example"]] {
        let message = world.mallory.claim("home.example", mx)?.refused(RefusalCode::NotProved)?;
        // Who asks hears what stands in the DNS for everybody, whether or not it was claimed.
        ensure!(message.starts_with("The record at _sealpost.home.example names another box"));
    }
    let message = world.mallory.claim("nobodys.example", &[])?.refused(RefusalCode::NotProved)?;
    ensure!(message.starts_with("There is no record for this box at _sealpost.nobodys.example"));
    Ok(())
}

pub(crate) fn record_at_the_wrong_place(world: &mut World) -> Result<()> {
    let text = record::text(world.mallory.key().fingerprint());
    let places =
        ["www.home", "_sealpost.www.home", "_sealpost._sealpost.home", "home", "sealpost.home"];
    let records = places.map(|place| format!("{place}.example. IN TXT \"{text}\"\n"));
    world.publish(&records)?;
    world.mallory.claim("home.example", &[])?.refused(RefusalCode::NotProved)?;
    world.mallory.claim("mx.home.example", &[])?.refused(RefusalCode::NotProved)?;
    Ok(())
}

pub(crate) fn record_that_does_not_name_him(world: &mut World) -> Result<()> {
    let (alice, mallory) = (world.alice.key().fingerprint(), world.mallory.key().fingerprint());
    let texts = [
        format!("sealpost1 box={alice} box={mallory}"),
        format!("sealpost1 box={mallory} box={alice}"),
        format!("sealpost1 box={alice}{mallory}"),
        format!("sealpost1 box={alice} {mallory}"),
        format!("sealpost2 box={mallory}"),
        format!("sealpost1 box={}", mallory.to_string().to_lowercase()),
        format!("v=spf1 box={mallory}"),
    ];
    let records: Vec<String> = (0..)
        .zip(&texts)
        .map(|(at, text)| format!("_sealpost.odd{at}.example. IN TXT \"{text}\"\n"))
        .collect();
    world.publish(&records)?;
    for at in 0..texts.len() {
        let domain = format!("odd{at}.example");
        world.mallory.claim(&domain, &[])?.refused(RefusalCode::NotProved)?;
    }
    Ok(())
}

/// The zone is his now, her record was forgotten there: both are proved, and who is there, stays.
pub(crate) fn record_beside_the_dangling_one(world: &mut World) -> Result<()> {
    world.alice_has(&["dangling.example"])?;
    world.mallory_proves(&["dangling.example"])?;
    world.mallory.claim("dangling.example", &[])?.not_available("dangling.example")?;
    world.alice.claim("dangling.example", &[])?.granted()?;
    world.mallory.claim("dangling.example", &[])?.not_available("dangling.example")
}

/// By the design a claim outlives its record for weeks (`docs/src/explanation/domains.md`), so that
/// a slip in a zone ends nothing.
pub(crate) fn record_in_the_place_of_hers(world: &mut World) -> Result<()> {
    world.alice_has(&["stale.example"])?;
    world.withdraw(&proof("stale.example", world.alice.key()))?;
    world.mallory_proves(&["stale.example"])?;
    world.mallory.claim("stale.example", &[])?.not_available("stale.example")?;
    // She cannot claim it anew, and loses nothing by trying.
    world.alice.claim("stale.example", &[])?.refused(RefusalCode::NotProved).map(drop)
}

pub(crate) fn alias_or_delegation_at_the_record(world: &mut World) -> Result<()> {
    let records = [
        "_sealpost.alias.example. IN CNAME _sealpost.mallory.example.\n",
        "renamed.example. IN DNAME mallory.example.\n",
        "*.loose.example. IN CNAME _sealpost.mallory.example.\n",
        "_sealpost.given.example. IN NS ns.mallory.example.\n",
    ];
    world.publish(&records.map(str::to_owned))?;
    for domain in ["alias", "sub.renamed", "renamed", "loose", "given"] {
        let domain = format!("{domain}.example");
        let message = world.mallory.claim(&domain, &[])?.refused(RefusalCode::NotProved)?;
        ensure!(message.contains("is an alias (CNAME) or delegated"), "{domain}: {message}");
    }
    Ok(())
}

/// Her web shop is an alias for a host of his: that says nothing of mail.
pub(crate) fn alias_at_the_domain(world: &mut World) -> Result<()> {
    world.publish(&["shop.home.example. IN CNAME mallory.example.\n".into()])?;
    world.mallory.claim("shop.home.example", &[])?.refused(RefusalCode::NotProved)?;
    Ok(())
}

/// A wildcard never answers for a name that is there.
pub(crate) fn wildcard_record(world: &mut World) -> Result<()> {
    world.alice_has(&["wild.example"])?;
    let text = record::text(world.mallory.key().fingerprint());
    world.publish(&[format!("*.wild.example. IN TXT \"{text}\"\n")])?;
    world.mallory.claim("wild.example", &[])?.refused(RefusalCode::NotProved)?;
    // Even if hers is taken away, so that it does, she keeps what she has.
    world.withdraw(&proof("wild.example", world.alice.key()))?;
    expect_wildcard_in_vain(world, "wild.example")
}

pub(crate) fn wildcard_beneath_her_domain(world: &mut World) -> Result<()> {
    for domain in ["sub.wild.example", "mx.wild.example"] {
        expect_wildcard_in_vain(world, domain)?;
    }
    world.expect_nobody("mx.sub.wild.example")
}

/// Whether a signed wildcard counts as a record depends on how its zone is signed; `domains.md`
/// promises nothing. It is in vain with it and without.
fn expect_wildcard_in_vain(world: &World, domain: &str) -> Result<()> {
    match world.mallory.claim(domain, &[])? {
        Said::Answer(Answer::Refused(Refusal { code: RefusalCode::NotProved, .. })) => Ok(()),
        proved => proved.not_available(domain),
    }
}
