//! Attempts with handovers from one box key to the next: forged, captured, replayed.

use anyhow::{Result, ensure};
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Handover, Identity, Request, ResetCode};
use serde_json::{json, to_value};

use crate::played_box::PlayedBox;
use crate::world::World;

/// Each is sent by mallory's box, and by one that nobody knows.
pub(crate) fn forged_rotation(world: &mut World) -> Result<()> {
    let elsewhere = Identity::ephemeral().public();
    let alice = &world.alice.identity;
    for thief in [&world.mallory, &world.stranger()] {
        let to = thief.key();
        let by_himself = world.handover(Purpose::BoxKey, &thief.identity, to);
        let in_her_name = Handover { from: alice.public(), ..by_himself };
        let other = world.handover(Purpose::BoxKey, &world.mallory.identity, alice.public());
        for forged in [
            in_her_name,
            by_himself,
            // His own signature over another pair of keys.
            Handover { from: alice.public(), to, ..other },
            // Hers, but for another relay, for all relays, or for something else.
            Handover::sign(Purpose::BoxKey, alice, to, Some(elsewhere)),
            Handover::sign(Purpose::BoxKey, alice, to, None),
            Handover::sign(Purpose::RelayKey, alice, to, None),
            world.handover(Purpose::Recovery, alice, to),
            world.handover(Purpose::RecoveryKey, alice, to),
            // For somebody else than who sends it.
            world.handover(Purpose::BoxKey, alice, elsewhere),
            other,
        ] {
            thief.rotate(forged)?.refused(RefusalCode::BadSignature)?;
        }
        let good = to_value(world.handover(Purpose::BoxKey, alice, elsewhere))?;
        for (field, value) in [("to", json!(to)), ("from", json!(to)), ("signature", json!(""))] {
            let mut changed = good.clone();
            changed[field] = value;
            let said = thief.say_json(&json!({ "do": "rotate", "handover": changed }))?;
            if field == "signature" {
                said.not_read()?;
            } else {
                said.refused(RefusalCode::BadSignature)?;
            }
        }
    }
    Ok(())
}

/// He reads along when she rotates her key, and has her former key afterwards.
pub(crate) fn captured_rotation(world: &mut World) -> Result<()> {
    let next = PlayedBox::stranger(&world.alice.line);
    let captured = world.handover(Purpose::BoxKey, &world.alice.identity, next.key());
    world.mallory.rotate(captured)?.refused(RefusalCode::BadSignature)?;
    world.stranger().rotate(captured)?.refused(RefusalCode::BadSignature)?;
    world.judge()?;

    let former = world.alice.identity.clone();
    next.rotate(captured)?.granted()?;
    world.alice_becomes(next)?;
    world.mallory.rotate(captured)?.refused(RefusalCode::BadSignature)?;
    // By the design she may repeat it, as an answer can be lost.
    ensure!(world.alice.rotate(captured)?.granted()?.key == world.alice.key());

    let mut thief = world.thief(&former);
    thief.expect_shut_out(ResetCode::Revoked)?;
    for request in [Request::Standing, Request::Leave, Request::Rotate { handover: captured }] {
        thief.ask(&request)?.refused(RefusalCode::KeyRevoked)?;
    }
    thief.claim("home.example", &[])?.refused(RefusalCode::KeyRevoked)?;
    thief.release("home.example")?.refused(RefusalCode::KeyRevoked)?;
    // The former key names another successor, too late.
    for heir in [&world.mallory, &world.stranger()] {
        let handover = world.handover(Purpose::BoxKey, &former, heir.key());
        heir.rotate(handover)?.refused(RefusalCode::UnknownBox)?;
    }
    Ok(())
}

/// She rotates twice; what led to the key in between, or leads back, is replayed.
pub(crate) fn rotation_back(world: &mut World) -> Result<()> {
    let first = world.alice.identity.clone();
    let second = PlayedBox::stranger(&world.alice.line);
    let second_key = second.identity.clone();
    let to_second = world.handover(Purpose::BoxKey, &first, second.key());
    second.rotate(to_second)?.granted()?;
    world.alice_becomes(second)?;
    let third = PlayedBox::stranger(&world.alice.line);
    let to_third = world.handover(Purpose::BoxKey, &second_key, third.key());
    third.rotate(to_third)?.granted()?;
    world.alice_becomes(third)?;

    // He has both former keys, and all that they signed.
    world.thief(&second_key).rotate(to_second)?.refused(RefusalCode::KeyRevoked)?;
    world.thief(&first).rotate(to_second)?.refused(RefusalCode::KeyRevoked)?;
    let back = world.handover(Purpose::BoxKey, &second_key, first.public());
    world.thief(&first).rotate(back)?.refused(RefusalCode::KeyRevoked)?;
    for replayed in [to_second, to_third, back] {
        world.mallory.rotate(replayed)?.refused(RefusalCode::BadSignature)?;
    }
    // Her present key cannot be made to go back either, nor to take mallory's box over.
    let back = world.handover(Purpose::BoxKey, &world.alice.identity, first.public());
    world.thief(&first).rotate(back)?.refused(RefusalCode::KeyRevoked)?;
    let merged = world.handover(Purpose::BoxKey, &world.mallory.identity, world.alice.key());
    world.alice.rotate(merged)?.refused(RefusalCode::KeyTaken).map(drop)
}

/// Anybody may ask for this, and hears of the relay's own keys alone.
pub(crate) fn succession_of_nonsense(world: &mut World) -> Result<()> {
    let nonsense = Identity::ephemeral().public();
    let keys = [world.alice.key(), world.mallory.key(), world.relay_key, nonsense];
    for asker in [&world.stranger(), &world.mallory] {
        for from in keys {
            let chain = asker.ask(&Request::Succession { from })?.succession()?;
            ensure!(chain.is_empty(), "{chain:?}");
        }
        asker.say(br#"{"do":"succession","from":"alice"}"#)?.not_read()?;
        asker.say(br#"{"do":"succession"}"#)?.not_read()?;
    }
    Ok(())
}
