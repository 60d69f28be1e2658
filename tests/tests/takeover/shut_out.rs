//! Attempts with keys that the relay does not know, or does not accept any more.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use sealpost_tests::sealpost::relay_does;
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::pins::Use;
use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Identity, Request, ResetCode};

use crate::line::say;
use crate::played_box::PlayedBox;
use crate::world::{World, proof};

const DOMAIN: &str = "trent.example";

/// Everything that one may ask, for who may ask nothing.
fn ask_everything(who: &PlayedBox, code: RefusalCode) -> Result<()> {
    let recovery = Identity::ephemeral().public();
    for request in [
        Request::Standing,
        Request::Claim { domain: DOMAIN.parse()?, mx: vec![] },
        Request::Claim { domain: "home.example".parse()?, mx: vec![] },
        Request::Release { domain: "home.example".parse()? },
        Request::SetRecovery { recovery, by: None },
        Request::Leave,
    ] {
        who.ask(&request)?.refused(code)?;
    }
    Ok(())
}

pub(crate) fn unknown_key(world: &mut World) -> Result<()> {
    let mut stranger = world.stranger();
    stranger.expect_shut_out(ResetCode::UnknownBox)?;
    ask_everything(&stranger, RefusalCode::UnknownBox)
}

pub(crate) fn revoked_box_returns(world: &mut World) -> Result<()> {
    let mut trent = world.newcomer("trent")?;
    let kit = Identity::ephemeral();
    trent.set_recovery(kit.public(), None)?.granted()?;
    world.publish(&[proof(DOMAIN, trent.key())])?;
    trent.claim(DOMAIN, &[])?.granted()?;
    trent.connect()?;
    ensure!(world.reached("mx.trent.example")? == Some(trent.key()));
    // Opened before, and kept.
    let kept = trent.line.dial(&trent.identity, Use::Registry)?;
    relay_does(&world.network.relay, "revoke trent --yes")?;
    trent.expect_cut()?;
    world.expect_nobody("mx.trent.example")?;

    for _ in 0..2 {
        trent.expect_shut_out(ResetCode::Revoked)?;
    }
    ask_everything(&trent, RefusalCode::KeyRevoked)?;
    let said = trent.line.handle.block_on(say(&kept, &Request::Standing.encode()))?;
    said.refused(RefusalCode::KeyRevoked)?;
    let secret = world.invite("trent2")?;
    let join = Request::Join { secret, recovery: None };
    trent.ask(&join)?.refused(RefusalCode::KeyRevoked)?;
    // The kit is for boxes that were lost, not for those that were shut out.
    let fresh = world.stranger();
    let handover = world.handover(Purpose::Recovery, &kit, fresh.key());
    fresh.recover(handover)?.refused(RefusalCode::UnknownBox)?;
    let handover = world.handover(Purpose::Recovery, &kit, trent.key());
    trent.recover(handover)?.refused(RefusalCode::KeyRevoked)?;
    world.expect_nobody("mx.trent.example")
}

/// It was let in before it was shut out, and says hello only afterwards.
pub(crate) fn hello_after_the_revocation(world: &mut World) -> Result<()> {
    let mut peggy = world.newcomer("peggy")?;
    peggy.connect()?;
    let early = peggy.line.dial(&peggy.identity, Use::Tunnel)?;
    // So that the relay has looked at the key. Were it too early, there would be no more to see.
    thread::sleep(Duration::from_millis(300));
    relay_does(&world.network.relay, "revoke peggy --yes")?;
    peggy.expect_cut()?;
    if peggy.greet(early)?.is_none() {
        peggy.expect_cut()?;
    }
    peggy.expect_shut_out(ResetCode::Revoked)
}

/// It signed, before it was revoked, that another key shall follow.
pub(crate) fn revoked_box_with_a_fresh_key(world: &mut World) -> Result<()> {
    let mut ivan = world.newcomer("ivan")?;
    ivan.connect()?;
    let mut fresh = world.stranger();
    let handover = world.handover(Purpose::BoxKey, &ivan.identity, fresh.key());
    let to_mallory = world.handover(Purpose::BoxKey, &ivan.identity, world.mallory.key());
    relay_does(&world.network.relay, "revoke ivan --yes")?;
    ivan.expect_cut()?;
    fresh.rotate(handover)?.refused(RefusalCode::UnknownBox)?;
    world.mallory.rotate(to_mallory)?.refused(RefusalCode::UnknownBox)?;
    ivan.rotate(handover)?.refused(RefusalCode::KeyRevoked)?;
    fresh.expect_shut_out(ResetCode::UnknownBox)
}

/// Its record still stands, and he has its key, or adds his own.
pub(crate) fn record_of_a_revoked_box(world: &mut World) -> Result<()> {
    world.mallory_proves(&[DOMAIN, "sub.trent.example"])?;
    world.mallory.claim(DOMAIN, &[])?.not_available(DOMAIN)?;
    world.mallory.claim("sub.trent.example", &[])?.not_available("sub.trent.example")?;
    world.expect_nobody("mx.trent.example")?;
    // Who is invited under its name is the operator's choice, and comes without its domains.
    let heir = world.newcomer("trent")?;
    let standing = heir.ask(&Request::Standing)?.granted()?;
    ensure!(standing.domains.is_empty() && standing.recovery.is_none(), "{standing:?}");
    heir.claim(DOMAIN, &[])?.refused(RefusalCode::NotProved)?;
    world.expect_nobody("mx.trent.example")
}
