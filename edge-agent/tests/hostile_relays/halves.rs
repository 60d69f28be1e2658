//! Two relays, of which one fails in the middle: nobody is locked out, and the same command
//! finishes later.

use std::sync::{Arc, Mutex};

use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::identity::Seed;
use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Answer, Identity, Kit, PublicKey, RelayRef, Request};

use crate::home::{Home, file, invite, kit_in};
use crate::relay::{Relay, Reply, known, refused, standing};

/// What a relay of the test's own knows of one box.
#[derive(Default)]
struct Memory {
    key: Option<PublicKey>,
    recovery: Option<PublicKey>,
    /// Refuses to write.
    full: bool,
}

/// A relay that keeps to the rules as far as these tests ask.
fn honest(memory: &Arc<Mutex<Memory>>) -> Relay {
    let memory = memory.clone();
    Relay::start(move |key, request| {
        let mut memory = memory.lock().unwrap();
        let us = memory.key == Some(key);
        if !us && matches!(request, Request::Standing | Request::Leave) {
            return refused(RefusalCode::UnknownBox);
        }
        if memory.full && request != Request::Standing {
            return refused(RefusalCode::Unavailable);
        }
        match request {
            Request::Standing => {}
            Request::Join { recovery, .. } => {
                (memory.key, memory.recovery) = (Some(key), recovery);
            }
            Request::Rotate { handover } => {
                let signed = memory.key == Some(handover.from) && handover.to == key;
                if !signed {
                    return refused(RefusalCode::BadSignature);
                }
                memory.key = Some(key);
            }
            Request::Recover { handover } => {
                if memory.recovery != Some(handover.from) || handover.to != key {
                    return refused(RefusalCode::BadSignature);
                }
                memory.key = Some(key);
            }
            Request::SetRecovery { recovery, by } => {
                let allowed = memory.recovery.is_none_or(|old| by.is_some_and(|by| by.from == old));
                if !allowed {
                    return refused(RefusalCode::RecoverySet);
                }
                memory.recovery = Some(recovery);
            }
            Request::Leave => {
                memory.key = None;
                return Reply::Answer(Answer::Left);
            }
            _ => return refused(RefusalCode::Protocol),
        }
        let mut standing = standing(key);
        standing.recovery = memory.recovery;
        Reply::Answer(Answer::Standing(standing.into()))
    })
}

pub(crate) fn kit_of(relays: &[&Relay], seed: &Seed) -> String {
    let relays = relays.iter().map(|relay| RelayRef {
        addresses: vec![relay.address.to_string().parse().unwrap()],
        key: relay.identity.public(),
    });
    Kit::new("alice".into(), relays.collect(), seed.clone()).unwrap().to_string()
}

fn two() -> ([Arc<Mutex<Memory>>; 2], [Relay; 2]) {
    let memories = [Arc::default(), Arc::default()];
    let relays = [honest(&memories[0]), honest(&memories[1])];
    (memories, relays)
}

#[test]
fn joining_is_safe_to_repeat_and_leaving_takes_the_entry_out() {
    let ([first, second], [one, two]) = two();
    let home = Home::bare();
    let invitation = invite(&one);
    let said = home.join(&invitation).fine();
    assert!(said.contains("joined: relay.example.net knows this box as `alice`"), "{said}");
    let before = home.files();
    let said = home.run(&["join", &invitation]).fine();
    assert!(said.contains("already joined"), "{said}");
    assert_eq!(home.files(), before);

    // The relay lost the box: a further invite brings it back without another entry.
    first.lock().unwrap().key = None;
    home.run(&["join", &invitation]).fine();
    assert_eq!(home.files(), before);

    home.run(&["join", &invite(&two), "--name", "second"]).fine();
    home.run(&["check-config"]).fine();
    let key = home.key();
    assert!([&first, &second].iter().all(|memory| memory.lock().unwrap().key == Some(key)));
    home.run(&["leave", "second"]).fine();
    assert_eq!(second.lock().unwrap().key, None);
    assert_eq!(home.files(), before);

    // A relay that is gone needs --force.
    let name = home.run(&["domain", "list", "--json"]).fine();
    let name: serde_json::Value = serde_json::from_str(&name).unwrap();
    let name = name["relays"][0]["relay"].as_str().unwrap();
    first.lock().unwrap().full = true;
    home.run(&["leave", name]).failed("--force");
    assert_eq!(home.files(), before);
    let said = home.run(&["leave", name, "--force"]).fine();
    assert!(said.contains("It still knows this box's name"), "{said}");
}

#[test]
fn a_file_that_cannot_be_written_leaves_words_to_go_on_with() {
    let (memories, [one, _two]) = two();
    let home = Home::bare();
    // Found out before the invite is spent.
    std::os::unix::fs::symlink("/dev/null/agent.toml", home.config()).unwrap();
    home.join(&invite(&one)).failed("agent.toml");
    assert_eq!(memories[0].lock().unwrap().key, None);
    assert!(!home.state().exists(), "not even a key was made");

    // Found out when it was spent.
    let home = Arc::new(Home::bare());
    let there = home.clone();
    let relay = Relay::start(move |key, request| match request {
        Request::Standing if !there.config().exists() => refused(RefusalCode::UnknownBox),
        Request::Join { .. } => {
            std::fs::create_dir(there.config()).unwrap();
            known(key)
        }
        _ => known(key),
    });
    let said = home.join(&invite(&relay)).failed("registered this box as `alice`");
    assert!(said.contains("[[relay]]\n# What you call it.\nname = \"127.0.0.1\"\n"), "{said}");
    std::fs::remove_dir(home.config()).unwrap();
    home.join(&invite(&relay)).failed("registered this box as `alice`");
    std::fs::remove_dir(home.config()).unwrap();
    std::fs::write(home.config(), format!("state = {:?}\n", home.state())).unwrap();
    home.join(&invite(&relay)).fine();
}

#[test]
fn a_rotation_waits_for_all_relays_and_goes_on_where_it_stopped() {
    let (memories, [one, two]) = two();
    let home = Home::at(&[&one, &two]);
    let old = home.key();
    memories.iter().for_each(|memory| memory.lock().unwrap().key = Some(old));
    memories[1].lock().unwrap().full = true;

    let said = home.run(&["key", "rotate"]).failed("NOT DONE");
    assert!(said.contains("kept for r1. "), "{said}");
    assert_eq!(home.key(), old);
    let next = memories[0].lock().unwrap().key.unwrap();
    assert_ne!(next, old);
    // Meanwhile commands prove to each relay the key that it knows.
    home.run(&["domain", "list"]).fine();

    memories[1].lock().unwrap().full = false;
    home.run(&["key", "rotate"]).fine();
    assert_eq!((home.key(), memories[1].lock().unwrap().key), (next, Some(next)));
    assert!(!home.state().join("agent.key.next").exists());
    home.run(&["domain", "list"]).fine();
}

#[test]
fn a_kit_never_leaves_a_relay_with_a_key_that_nobody_has() {
    let (memories, [one, two]) = two();
    let home = Home::at(&[&one, &two]);
    memories.iter().for_each(|memory| memory.lock().unwrap().key = Some(home.key()));
    let registered = |at: usize| memories[at].lock().unwrap().recovery;

    // A relay that is away: nothing is done, as a kit for some is seldom meant.
    memories[1].lock().unwrap().key = None;
    home.run(&["recovery-kit"]).failed("--relay");
    assert_eq!((registered(0), home.state().join("recovery.pub").exists()), (None, false));
    memories[1].lock().unwrap().key = Some(home.key());

    // One that fails in the middle: the kit is out, and can be registered there later.
    memories[1].lock().unwrap().full = true;
    let half = home.run(&["recovery-kit"]);
    let kit = kit_in(&half.failed("not good at r1"));
    let seed = kit.parse::<Kit>().unwrap().seed;
    let key = Identity::from_seed(&seed).public();
    assert_eq!((registered(0), registered(1)), (Some(key), None));
    memories[1].lock().unwrap().full = false;
    let kit_file = file(&home, "kit", &kit);
    let again = home.run(&["recovery-kit", "--again", &kit_file, "--qr"]).fine();
    assert_eq!((kit_in(&again), registered(1)), (kit, Some(key)));
    assert!(again.contains('█'), "{again}");

    // Another kit needs the first.
    home.run(&["recovery-kit"]).failed("--replace");
    let other = kit_of(&[&one], &Seed::random());
    let other = file(&home, "other", &other);
    home.run(&["recovery-kit", "--replace", &other]).failed("another recovery kit");
    assert_eq!(registered(0), Some(key));
    let replaced = home.run(&["recovery-kit", "--replace", &kit_file, "--json"]).fine();
    let mut lines = replaced.lines().map(serde_json::from_str::<serde_json::Value>);
    let kit: Kit = lines.next().unwrap().unwrap()["kit"].as_str().unwrap().parse().unwrap();
    assert_eq!(lines.next().unwrap().unwrap()["done"], true);
    let new = Identity::from_seed(&kit.seed).public();
    assert_eq!((registered(0), registered(1)), (Some(new), Some(new)));
}

#[test]
fn a_kit_brings_a_bare_box_back_even_in_two_steps() {
    let (memories, [one, two]) = two();
    let (recovery, seed) = Identity::generate();
    for memory in &memories {
        let mut memory = memory.lock().unwrap();
        memory.key = Some(Identity::ephemeral().public());
        memory.recovery = Some(recovery.public());
    }
    memories[1].lock().unwrap().full = true;
    let home = Home::bare();
    let kit = file(&home, "kit", &kit_of(&[&one, &two], &seed));
    let state = home.state();
    let recover = || home.run(&["recover", &kit, "--state", state.to_str().unwrap()]);
    recover().failed("NOT DONE at 127.0.0.1-2");
    let key = home.key();
    assert_eq!(memories[0].lock().unwrap().key, Some(key));
    let written = std::fs::read(home.config()).unwrap();

    memories[1].lock().unwrap().full = false;
    recover().fine();
    assert_eq!((home.key(), memories[1].lock().unwrap().key), (key, Some(key)));
    assert_eq!(std::fs::read(home.config()).unwrap(), written, "the file is as it was");
    recover().fine();
    assert_eq!(home.key(), key);

    // A box with a key of its own is not bare.
    home.run(&["key", "rotate"]).fine();
    recover().failed("this box is not bare");
}

#[test]
fn a_kit_that_relays_do_not_know_gets_nothing() {
    let (memories, [one, _two]) = two();
    let owner = Identity::ephemeral().public();
    memories[0].lock().unwrap().key = Some(owner);
    let home = Home::bare();
    let kit = file(&home, "kit", &kit_of(&[&one], &Seed::random()));
    let state = home.state();
    home.run(&["recover", &kit, "--state", state.to_str().unwrap()]).failed("bad-signature");
    assert_eq!(memories[0].lock().unwrap().key, Some(owner));
    assert!(!home.config().exists());
}

/// What is signed is for this purpose and this relay alone.
#[test]
fn handovers_are_signed_for_one_relay() {
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let relay = Relay::start({
        let seen = seen.clone();
        move |key, request| match request {
            Request::Standing => refused(RefusalCode::UnknownBox),
            request => {
                seen.lock().unwrap().push(request);
                known(key)
            }
        }
    });
    let home = Home::at(&[&relay]);
    let old = home.key();
    home.run(&["key", "rotate"]).fine();
    let Some(Request::Rotate { handover }) = seen.lock().unwrap().pop() else {
        panic!("no rotation was asked for");
    };
    assert_eq!((handover.from, handover.to), (old, home.key()));
    assert!(handover.verify(Purpose::BoxKey, Some(relay.identity.public())));
    assert!(!handover.verify(Purpose::BoxKey, None));
    assert!(!handover.verify(Purpose::Recovery, Some(relay.identity.public())));
}
