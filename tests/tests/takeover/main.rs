//! Takeover attempts: mallory, who has a box at the same relay and more than he should have, tries
//! to get names of alice's. After each attempt it is judged from outside whether what is sent to
//! her names still arrives at her alone.
//!
//! Where something is granted that looks like a success, a comment says why it is none.

mod joins;
mod keys;
mod line;
mod names;
mod neighbours;
mod played_box;
mod proofs;
mod races;
mod recovery;
mod shut_out;
mod times;
mod world;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sealpost_tests::sealpost::{Kept, relay_says};

use world::{World, world};

/// One attempt, or some of a kind; fails when one succeeds.
type Attempt = (&'static str, fn(&mut World) -> Result<()>);

macro_rules! attempts {
    ($($module:ident::$name:ident),+ $(,)?) => {
        &[$((stringify!($name), $module::$name)),+]
    };
}

/// In this order: those that change keys come last.
const ATTEMPTS: &[Attempt] = attempts![
    proofs::claim_without_a_record,
    proofs::record_at_the_wrong_place,
    proofs::record_that_does_not_name_him,
    proofs::record_beside_the_dangling_one,
    proofs::record_in_the_place_of_hers,
    proofs::alias_or_delegation_at_the_record,
    proofs::alias_at_the_domain,
    proofs::wildcard_record,
    proofs::wildcard_beneath_her_domain,
    names::case_and_dots,
    names::what_is_no_name,
    names::two_names_in_one_claim,
    names::international_twins,
    names::twin_in_one_script,
    names::what_belongs_to_nobody,
    names::what_belongs_to_the_relay,
    names::too_long,
    names::her_mx_name_under_his_domain,
    names::too_many_mx_names,
    neighbours::domain_beneath_hers,
    neighbours::her_mx_name_as_a_domain,
    neighbours::names_beneath_hers_from_above,
    neighbours::domain_above_hers_keeps_nothing_from_her,
    neighbours::release_of_her_domain,
    times::reclaim_after_her_release,
    times::claim_while_hers_is_suspended,
    times::claim_while_hers_rests,
    races::two_claimants,
    races::above_and_beneath,
    races::against_who_has_it,
    races::against_release_and_return,
    races::against_its_revocation,
    joins::spent_invite,
    joins::guessed_invite,
    joins::void_invite,
    joins::race_for_one_invite,
    joins::pretended_key_and_name,
    joins::her_name_again,
    joins::her_key_as_another_box,
    joins::key_and_name_of_a_box_that_left,
    shut_out::unknown_key,
    shut_out::revoked_box_returns,
    shut_out::hello_after_the_revocation,
    shut_out::revoked_box_with_a_fresh_key,
    shut_out::record_of_a_revoked_box,
    keys::forged_rotation,
    keys::captured_rotation,
    keys::rotation_back,
    keys::succession_of_nonsense,
    recovery::thief_sets_a_recovery_key,
    recovery::recovery_without_the_kit,
    recovery::captured_recovery,
    recovery::recovery_with_an_old_kit,
];

fn none_succeeds(world: &mut World) -> Result<()> {
    world.judge().context("before the first attempt")?;
    for (name, attempt) in ATTEMPTS {
        let began = Instant::now();
        println!("{name}");
        attempt(world).with_context(|| format!("the attempt `{name}`"))?;
        world.judge().with_context(|| format!("after the attempt `{name}`"))?;
        println!("    {} ms", began.elapsed().as_millis());
    }
    // As the operator sees it.
    let domains = relay_says(&world.network.relay, "domains")?;
    let domains = domains.as_array().context("a list")?;
    for name in world.hers.iter().filter_map(|name| name.strip_prefix("mx.")) {
        let domain = domains.iter().find(|domain| domain["domain"] == name);
        ensure!(domain.is_some_and(|domain| domain["box"] == "alice"), "{name}: {domain:?}");
    }
    Ok(())
}

#[test]
fn no_attempt_succeeds_with_sqlite() -> Result<()> {
    world(Kept::Sqlite, none_succeeds)
}

#[test]
fn no_attempt_succeeds_with_postgresql() -> Result<()> {
    world(Kept::Postgres, none_succeeds)
}
