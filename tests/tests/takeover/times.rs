//! Attempts on domains that alice gave up, or whose proof she lost.

use anyhow::{Result, ensure};
use sealpost_relay::proof::life::State;

use crate::world::World;

pub(crate) fn reclaim_after_her_release(world: &mut World) -> Result<()> {
    let domain = "moving.example";
    world.alice_has(&[domain])?;
    world.mallory_proves(&[domain, "sub.moving.example", "mx.moving.example"])?;
    world.alice.release(domain)?.granted()?;
    world.expect_nobody("mx.moving.example")?;
    world.mallory.claim(domain, &[])?.not_available(domain)?;
    // Nor is a part of it free.
    for part in ["sub.moving.example", "mx.moving.example"] {
        world.mallory.claim(part, &[part])?.not_available(part)?;
    }
    world.expect_nobody("mx.moving.example")?;
    // The one who had it may have it back at once.
    world.alice.claim(domain, &[])?.granted()?;
    world.mallory.claim(domain, &[])?.not_available(domain)
}

/// Suspended names get no mail, but are kept, for as long as nobody can look for the proof.
pub(crate) fn claim_while_hers_is_suspended(world: &mut World) -> Result<()> {
    let domain = "lapsed.example";
    world.alice_has(&[domain])?;
    world.mallory_proves(&[domain, "mx.lapsed.example"])?;
    world.age(domain, State::Suspended, 200)?;
    world.expect_nobody("mx.lapsed.example")?;
    world.mallory.claim(domain, &[])?.not_available(domain)?;
    world.mallory.claim("mx.lapsed.example", &[])?.not_available("mx.lapsed.example")?;
    world.expect_nobody("mx.lapsed.example")?;
    world.alice.claim(domain, &[])?.granted()?;
    Ok(())
}

pub(crate) fn claim_while_hers_rests(world: &mut World) -> Result<()> {
    let (resting, free) = ("resting.example", "rested.example");
    world.alice_has(&[resting, free])?;
    world.mallory_proves(&[resting, free])?;
    world.age(resting, State::Released, 89)?;
    world.age(free, State::Released, 91)?;
    for domain in [resting, free] {
        world.expect_nobody(&format!("mx.{domain}"))?;
    }
    world.mallory.claim(resting, &[])?.not_available(resting)?;
    world.alice.claim(resting, &[])?.granted()?;
    // By the design a name is free when it has rested for 90 days; from then on it is his, and her
    // record that was forgotten there does not get it back.
    world.mallory.claim(free, &[])?.granted()?;
    world.alice.claim(free, &[])?.not_available(free)?;
    let name = format!("mx.{free}");
    ensure!(world.reached(&name)? == Some(world.mallory.key()));
    world.hers.retain(|hers| *hers != name);
    Ok(())
}
