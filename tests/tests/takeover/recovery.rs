//! Attempts with and against alice's recovery kit.

use anyhow::{Result, ensure};
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Handover, Identity, Request, ResetCode};

use crate::played_box::PlayedBox;
use crate::world::World;

/// He has her box key, and wants to keep her kit from shutting him out.
pub(crate) fn thief_sets_a_recovery_key(world: &mut World) -> Result<()> {
    let kit = Identity::ephemeral();
    world.alice.set_recovery(kit.public(), None)?.granted()?;
    let thief = world.thief(&world.alice.identity);
    let his = Identity::ephemeral();
    let to = his.public();
    thief.set_recovery(to, None)?.refused(RefusalCode::RecoverySet)?;
    // Signed by what he has.
    for key in [&world.alice.identity, &his, &world.mallory.identity] {
        let by = world.handover(Purpose::RecoveryKey, key, to);
        let refused =
            if key.public() == to { RefusalCode::BadSignature } else { RefusalCode::RecoverySet };
        thief.set_recovery(to, Some(by))?.refused(refused)?;
    }
    // Signed by the kit, but for something else: another purpose, relay or key.
    let elsewhere = Some(Identity::ephemeral().public());
    for by in [
        world.handover(Purpose::Recovery, &kit, to),
        world.handover(Purpose::BoxKey, &kit, to),
        Handover::sign(Purpose::RecoveryKey, &kit, to, elsewhere),
        Handover::sign(Purpose::RecoveryKey, &kit, to, None),
        world.handover(Purpose::RecoveryKey, &kit, Identity::ephemeral().public()),
    ] {
        thief.set_recovery(to, Some(by))?.refused(RefusalCode::BadSignature)?;
    }
    // Her recovery key as his own: her kit would then lead to two boxes, or to his.
    world.mallory.set_recovery(kit.public(), None)?.refused(RefusalCode::KeyTaken)?;
    let secret = world.invite("copy")?;
    let copy = Request::Join { secret, recovery: Some(kit.public()) };
    world.stranger().ask(&copy)?.refused(RefusalCode::KeyTaken)?;
    let standing = world.alice.ask(&Request::Standing)?.granted()?;
    ensure!(standing.recovery == Some(kit.public()), "{standing:?}");
    // It works: she replaces it, with the old one, by one whose half the next attempts have.
    let next = world.kit.public();
    let by = world.handover(Purpose::RecoveryKey, &kit, next);
    world.alice.set_recovery(next, Some(by))?.granted()?;
    Ok(())
}

pub(crate) fn recovery_without_the_kit(world: &mut World) -> Result<()> {
    let kit = &world.kit;
    let mine = Identity::ephemeral();
    world.mallory.set_recovery(mine.public(), None)?.granted()?;
    for thief in [&world.mallory, &world.stranger()] {
        let to = thief.key();
        // Signed by her box key, which he has, and by a key that nobody registered.
        for key in [&world.alice.identity, &Identity::ephemeral()] {
            let handover = world.handover(Purpose::Recovery, key, to);
            thief.recover(handover)?.refused(RefusalCode::UnknownBox)?;
        }
        let by_hers = world.handover(Purpose::Recovery, &mine, to);
        let elsewhere = Some(Identity::ephemeral().public());
        for forged in [
            Handover { from: kit.public(), ..by_hers },
            world.handover(Purpose::BoxKey, &world.alice.identity, to),
            world.handover(Purpose::RecoveryKey, kit, to),
            world.handover(Purpose::BoxKey, kit, to),
            Handover::sign(Purpose::Recovery, kit, to, elsewhere),
            Handover::sign(Purpose::Recovery, kit, to, None),
        ] {
            thief.recover(forged)?.refused(RefusalCode::BadSignature)?;
        }
        // The recovery key is no box key.
        let rotation = world.handover(Purpose::BoxKey, kit, to);
        thief.rotate(rotation)?.refused(RefusalCode::UnknownBox)?;
    }
    // His own kit leads to his own box.
    let own = world.handover(Purpose::Recovery, &mine, world.mallory.key());
    let standing = world.mallory.recover(own)?.granted()?;
    ensure!(standing.name.as_str() == "mallory", "{standing:?}");
    // And does not make her key his.
    let hers = world.handover(Purpose::Recovery, &mine, world.alice.key());
    world.thief(&world.alice.identity).recover(hers)?.refused(RefusalCode::KeyTaken).map(drop)
}

/// She recovers from a theft: what she sent is replayed, and the stolen key tries to stay.
pub(crate) fn captured_recovery(world: &mut World) -> Result<()> {
    let stolen = world.alice.identity.clone();
    let next = PlayedBox::stranger(&world.alice.line);
    let captured = world.handover(Purpose::Recovery, &world.kit, next.key());
    for thief in [&world.mallory, &world.stranger(), &world.thief(&stolen)] {
        thief.recover(captured)?.refused(RefusalCode::BadSignature)?;
    }
    next.recover(captured)?.granted()?;
    world.alice_becomes(next)?;
    for thief in [&world.mallory, &world.stranger()] {
        thief.recover(captured)?.refused(RefusalCode::BadSignature)?;
        let rotation = world.handover(Purpose::BoxKey, &stolen, thief.key());
        thief.rotate(rotation)?.refused(RefusalCode::UnknownBox)?;
    }
    let mut thief = world.thief(&stolen);
    thief.expect_shut_out(ResetCode::Revoked)?;
    thief.ask(&Request::Standing)?.refused(RefusalCode::KeyRevoked)?;
    thief.set_recovery(Identity::ephemeral().public(), None)?.refused(RefusalCode::KeyRevoked)?;
    thief.recover(captured)?.refused(RefusalCode::KeyRevoked)?;
    // Even the kit itself does not bring the stolen key back.
    let back = world.handover(Purpose::Recovery, &world.kit, stolen.public());
    thief.recover(back)?.refused(RefusalCode::KeyRevoked).map(drop)
}

/// She made a new kit with the old one; he finds the old one, and what it signed.
pub(crate) fn recovery_with_an_old_kit(world: &mut World) -> Result<()> {
    let (second, third) = (Identity::ephemeral(), Identity::ephemeral());
    let to_second = world.handover(Purpose::RecoveryKey, &world.kit, second.public());
    world.alice.set_recovery(second.public(), Some(to_second))?.granted()?;
    let to_third = world.handover(Purpose::RecoveryKey, &second, third.public());
    world.alice.set_recovery(third.public(), Some(to_third))?.granted()?;
    for old in [&world.kit, &second] {
        for thief in [&world.mallory, &world.stranger()] {
            let handover = world.handover(Purpose::Recovery, old, thief.key());
            thief.recover(handover)?.refused(RefusalCode::UnknownBox)?;
        }
    }
    // With her box key too: the way to the second kit is not open a second time.
    let thief = world.thief(&world.alice.identity);
    thief.set_recovery(second.public(), Some(to_second))?.refused(RefusalCode::RecoverySet)?;
    let standing = world.alice.ask(&Request::Standing)?.granted()?;
    ensure!(standing.recovery == Some(third.public()), "{standing:?}");
    Ok(())
}
