//! Attempts to be there at the same moment as alice.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use sealpost_tests::sealpost::relay_does;
use sealpost_tunnel::pins::Use;
use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Answer, ResetCode};
use serde_json::{Value, json};

use crate::line::{Said, say};
use crate::played_box::PlayedBox;
use crate::world::{World, proof};

const ROUNDS: usize = 12;

fn claim(domain: &str, mx: &[&str]) -> Value {
    json!({ "do": "claim", "domain": domain, "mx": mx })
}

/// Both ask at the same moment, on connections that were there before.
fn at_once(world: &World, alice: &Value, mallory: &Value) -> Result<(Said, Said)> {
    let dial = |who: &PlayedBox| who.line.dial(&who.identity, Use::Registry);
    let (hers, his) = (dial(&world.alice)?, dial(&world.mallory)?);
    let (alice, mallory) = (alice.to_string(), mallory.to_string());
    let (alice, mallory) = world.alice.line.handle.block_on(async {
        tokio::join!(say(&hers, alice.as_bytes()), say(&his, mallory.as_bytes()))
    });
    Ok((alice?, mallory?))
}

/// Both prove all of these domains.
fn both_prove(world: &mut World, domains: &[String]) -> Result<()> {
    let (alice, mallory) = (world.alice.key(), world.mallory.key());
    let proofs = |domain: &String| [proof(domain, alice), proof(domain, mallory)];
    world.publish(&domains.iter().flat_map(proofs).collect::<Vec<_>>())
}

fn domains(name: &str) -> Vec<String> {
    (0..ROUNDS).map(|round| format!("{name}{round}.example")).collect()
}

/// Neither has it before, so either may win; the other one hears the neutral sentence, now and
/// later.
pub(crate) fn two_claimants(world: &mut World) -> Result<()> {
    let domains = domains("race");
    both_prove(world, &domains)?;
    let mut won = [0, 0];
    for domain in &domains {
        let (alice, mallory) = at_once(world, &claim(domain, &[]), &claim(domain, &[]))?;
        let name = format!("mx.{domain}");
        let winner = if matches!(alice, Said::Answer(Answer::Standing(_))) {
            mallory.not_available(domain)?;
            world.mallory.claim(domain, &[])?.not_available(domain)?;
            world.hers.push(name.clone());
            won[0] += 1;
            &world.alice
        } else {
            alice.not_available(domain)?;
            mallory.granted()?;
            world.alice.claim(domain, &[])?.not_available(domain)?;
            won[1] += 1;
            &world.mallory
        };
        ensure!(world.reached(&name)? == Some(winner.key()), "{name} has another owner");
    }
    println!("    won: {won:?}");
    Ok(())
}

/// He claims the domain above, with a name beneath the one that she claims.
pub(crate) fn above_and_beneath(world: &mut World) -> Result<()> {
    let above = domains("above");
    let beneath: Vec<String> = above.iter().map(|domain| format!("house.{domain}")).collect();
    both_prove(world, &[&above[..], &beneath].concat())?;
    for (above, beneath) in above.iter().zip(&beneath) {
        let name = format!("mx.{beneath}");
        let (alice, mallory) = at_once(world, &claim(beneath, &[]), &claim(above, &[&name]))?;
        let winner = if matches!(alice, Said::Answer(Answer::Standing(_))) {
            mallory.refused(RefusalCode::NotAvailable)?;
            world.hers.push(name.clone());
            &world.alice
        } else {
            alice.not_available(beneath)?;
            mallory.granted()?;
            &world.mallory
        };
        ensure!(world.reached(&name)? == Some(winner.key()), "{name} has another owner");
    }
    Ok(())
}

/// She has it, and changes its names while he claims it.
pub(crate) fn against_who_has_it(world: &mut World) -> Result<()> {
    let domain = "held.example";
    world.alice_has(&[domain])?;
    world.mallory_proves(&[domain])?;
    for round in 0..ROUNDS {
        let other = format!("mx{round}.{domain}");
        let hers = claim(domain, &["mx.held.example", &other]);
        let (alice, mallory) = at_once(world, &hers, &claim(domain, &[&other]))?;
        alice.granted()?;
        mallory.not_available(domain)?;
        ensure!(world.reached(&other)? == Some(world.alice.key()), "{other} is not hers");
    }
    Ok(())
}

/// She gives it up and takes it back, while he claims it.
pub(crate) fn against_release_and_return(world: &mut World) -> Result<()> {
    let domain = "held.example";
    let release = json!({ "do": "release", "domain": domain });
    for _ in 0..ROUNDS {
        for hers in [&release, &claim(domain, &[])] {
            let (alice, mallory) = at_once(world, hers, &claim(domain, &[]))?;
            alice.granted()?;
            mallory.not_available(domain)?;
        }
    }
    Ok(())
}

/// A box that is being shut out claims one domain after the other, and dials again and again.
/// What it got before is gone afterwards, and no tunnel of its is left.
pub(crate) fn against_its_revocation(world: &mut World) -> Result<()> {
    let oscar = world.newcomer("oscar")?;
    let domains = domains("late");
    let proofs: Vec<String> = domains.iter().map(|domain| proof(domain, oscar.key())).collect();
    world.publish(&proofs)?;
    let mut tunnels = Vec::new();
    thread::scope(|scope| {
        let revoking = scope.spawn(|| relay_does(&world.network.relay, "revoke oscar --yes"));
        for round in 0.. {
            if round >= ROUNDS && revoking.is_finished() {
                break;
            }
            oscar.claim(&domains[round % ROUNDS], &[])?;
            let mut tunnel = world.thief(&oscar.identity);
            if tunnel.try_connect()?.is_none() {
                tunnels.push(tunnel);
            }
        }
        revoking.join().map_err(|_| anyhow!("the command panicked"))?
    })?;
    println!("    {} tunnels were let in", tunnels.len());
    for tunnel in &tunnels {
        let end = tunnel.end()?;
        // Of one box there are four at most.
        ensure!([ResetCode::Revoked, ResetCode::Replaced].contains(&end), "cut for {end:?}");
    }
    for domain in &domains {
        oscar.claim(domain, &[])?.refused(RefusalCode::KeyRevoked)?;
        world.expect_nobody(&format!("mx.{domain}"))?;
    }
    world.thief(&oscar.identity).expect_shut_out(ResetCode::Revoked)
}
