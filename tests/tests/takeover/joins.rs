//! Attempts to become alice, or a box that knows her secrets, by joining.

use anyhow::{Result, ensure};
use sealpost_tests::sealpost::relay_does;
use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::pins::Use;
use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Answer, Request, ResetCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::line::{Said, say};
use crate::played_box::PlayedBox;
use crate::world::{World, proof};

fn join(secret: &Secret) -> Request {
    Request::Join { secret: secret.clone(), recovery: None }
}

/// The invite that brought somebody in is replayed, also while he is in.
pub(crate) fn spent_invite(world: &mut World) -> Result<()> {
    let victim = world.stranger();
    let secret = world.invite("victim")?;
    let first = victim.ask(&join(&secret))?.granted()?;
    for replayed in [&world.stranger(), &world.mallory, &world.alice] {
        replayed.ask(&join(&secret))?.refused(RefusalCode::InviteSpent)?;
    }
    // By the design the same box may repeat it, as an answer can be lost; nothing changes.
    ensure!(victim.ask(&join(&secret))?.granted()? == first);
    Ok(())
}

pub(crate) fn guessed_invite(world: &mut World) -> Result<()> {
    let secret = world.invite("guessed")?;
    let text = String::from(secret.clone());
    let thief = world.stranger();
    // Without the last character, of which not every value is one.
    for at in 0..text.len() - 1 {
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        let guess = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        thief.ask(&join(&guess.parse()?))?.refused(RefusalCode::InviteUnknown)?;
    }
    thief.ask(&join(&Secret::random()))?.refused(RefusalCode::InviteUnknown)?;
    // The registry's own hash of it is worth nothing, nor are other spellings.
    let hash = secret.hash();
    for guess in [&hash, &hash[..27], &format!("{text}="), &text[..26], &format!("{text}A"), ""] {
        let said = thief.say_json(&json!({ "do": "join", "secret": guess }))?;
        if let Err(error) = said.not_read() {
            ensure!(guess.len() == 27, "{error}");
        }
    }
    for guess in [json!(null), json!([text]), json!(1), json!({ "$ne": "" })] {
        thief.say_json(&json!({ "do": "join", "secret": guess }))?.not_read()?;
    }
    // It was not spent by all that.
    thief.ask(&join(&secret))?.granted()?;
    Ok(())
}

/// An invite that was sent to the wrong person is replaced, another one withdrawn.
pub(crate) fn void_invite(world: &mut World) -> Result<()> {
    let (void, good) = (world.invite("guest")?, world.invite("guest")?);
    let thief = world.stranger();
    thief.ask(&join(&void))?.refused(RefusalCode::InviteUnknown)?;
    relay_does(&world.network.relay, "invites withdraw guest")?;
    thief.ask(&join(&good))?.refused(RefusalCode::InviteUnknown).map(drop)
}

/// Some that got hold of the same invite use it at the same moment.
pub(crate) fn race_for_one_invite(world: &mut World) -> Result<()> {
    for round in 0..3 {
        let invite = world.invite(&format!("racer{round}"))?;
        let racers: Vec<PlayedBox> = (0..16).map(|_| world.stranger()).collect();
        let dial = |racer: &PlayedBox| racer.line.dial(&racer.identity, Use::Registry);
        let connections = racers.iter().map(dial).collect::<Result<Vec<_>>>()?;
        let mut joins = JoinSet::new();
        let request = join(&invite).encode();
        let winners = world.mallory.line.handle.block_on(async {
            for connection in connections {
                let request = request.clone();
                joins.spawn(async move { say(&connection, &request).await });
            }
            let mut winners = 0;
            while let Some(said) = joins.join_next().await {
                match said?? {
                    Said::Answer(Answer::Standing(_)) => winners += 1,
                    other => _ = other.refused(RefusalCode::InviteSpent)?,
                }
            }
            anyhow::Ok(winners)
        })?;
        ensure!(winners == 1, "{winners} joined with one invite");
    }
    Ok(())
}

/// Who joins is said by TLS and the invite, whatever else stands in the request.
pub(crate) fn pretended_key_and_name(world: &mut World) -> Result<()> {
    let liar = world.stranger();
    let alice = world.alice.key();
    let said = liar.say_json(&json!({
        "do": "join", "secret": world.invite("liar")?, "name": "alice", "key": alice, "box": alice,
        "id": 256, "domains": ["home.example"], "domains_allowed": 10_000,
    }))?;
    let standing = said.granted()?;
    ensure!(standing.key == liar.key() && standing.name.as_str() == "liar", "{standing:?}");
    ensure!(standing.domains.is_empty() && standing.domains_allowed == 100, "{standing:?}");
    let said = liar.say_json(&json!({ "do": "standing", "name": "alice", "key": alice }))?;
    ensure!(said.granted()? == standing);
    Ok(())
}

/// Not even the operator can give her name away by mistake.
pub(crate) fn her_name_again(world: &mut World) -> Result<()> {
    for name in ["alice", "Alice", "alice.", "alice#256", "al\u{ec}ce"] {
        let invited = relay_does(&world.network.relay, &format!("invite '{name}'"));
        ensure!(invited.is_err(), "an invite for {name} was made");
    }
    Ok(())
}

/// With her private key he could do more; but no second box hangs on it, in whichever way.
pub(crate) fn her_key_as_another_box(world: &mut World) -> Result<()> {
    let secret = world.invite("second")?;
    let thief = world.thief(&world.alice.identity);
    thief.ask(&join(&secret))?.refused(RefusalCode::KeyTaken)?;
    world.mallory.ask(&join(&secret))?.refused(RefusalCode::KeyTaken)?;
    // The invite is as it was.
    world.stranger().ask(&join(&secret))?.granted()?;
    Ok(())
}

/// Nothing of a box that left comes back: neither to its key, nor to its name.
pub(crate) fn key_and_name_of_a_box_that_left(world: &mut World) -> Result<()> {
    let domain = "left.example";
    let mut left = world.newcomer("wanderer")?;
    left.connect()?;
    world.publish(&[proof(domain, left.key())])?;
    left.claim(domain, &[])?.granted()?;
    let said = left.ask(&Request::Leave)?;
    ensure!(said == Said::Answer(Answer::Left), "{said:?}");
    left.expect_cut()?;
    world.expect_nobody("mx.left.example")?;

    let mut thief = world.thief(&left.identity);
    thief.expect_shut_out(ResetCode::Revoked)?;
    thief.ask(&Request::Standing)?.refused(RefusalCode::KeyRevoked)?;
    let secret = world.invite("wanderer")?;
    thief.ask(&join(&secret))?.refused(RefusalCode::KeyRevoked)?;
    thief.claim(domain, &[])?.refused(RefusalCode::KeyRevoked)?;
    // The name is free, and leads to none of what the former one had.
    let namesake = world.stranger();
    let standing = namesake.ask(&join(&secret))?.granted()?;
    ensure!(standing.name.as_str() == "wanderer" && standing.domains.is_empty());
    namesake.claim(domain, &[])?.refused(RefusalCode::NotProved)?;
    world.publish(&[proof(domain, namesake.key())])?;
    namesake.claim(domain, &[])?.not_available(domain)?;
    world.expect_nobody("mx.left.example")
}
