//! A relay that proves another key than the known one: it is followed on a signature alone.

use std::sync::{Arc, Mutex};

use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::{Answer, Handover, Identity, Request};

use crate::home::{Home, invite};
use crate::relay::{Relay, Reply, known};

/// A relay with a chain that the test sets.
pub(crate) fn with_chain() -> (Relay, Arc<Mutex<Vec<Handover>>>) {
    let chain: Arc<Mutex<Vec<Handover>>> = Arc::default();
    let said = chain.clone();
    let relay = Relay::start(move |key, request| match request {
        Request::Succession { from } => {
            let chain = said.lock().unwrap();
            let from = chain.iter().position(|change| change.from == from).unwrap_or(0);
            Reply::Answer(Answer::Succession { chain: chain[from..].to_vec() })
        }
        _ => known(key),
    });
    (relay, chain)
}

pub(crate) fn sign(from: &Identity, to: &Identity) -> Handover {
    Handover::sign(Purpose::RelayKey, from, to.public(), None)
}

#[test]
fn a_key_without_the_old_keys_signature_is_not_followed() {
    let (relay, chain) = with_chain();
    let home = Home::at(&[&relay]);
    home.run(&["domain", "list"]).fine();
    let before = home.files();
    let [new, thief] = [(); 2].map(|()| Identity::ephemeral());
    relay.change_key(&new);
    let old = &relay.identity;
    let wrong_purpose = Handover::sign(Purpose::BoxKey, old, new.public(), None);
    let one_relay = Handover::sign(Purpose::RelayKey, old, new.public(), Some(old.public()));
    let forged = Handover { from: old.public(), ..sign(&thief, &new) };
    for bad in [
        vec![],
        vec![forged],
        vec![wrong_purpose],
        vec![one_relay],
        vec![sign(old, &thief)],
        vec![sign(old, &thief), sign(&new, &new)],
        vec![sign(&thief, &new)],
        vec![sign(old, &thief); 64],
    ] {
        *chain.lock().unwrap() = bad;
        home.run(&["domain", "list"]).failed("another key answers there");
        home.run(&["leave", "r0"]).failed("another key answers there");
    }
    assert_eq!(home.files(), before);
    // Nor is an invite spent there.
    let bare = Home::bare();
    bare.join(&invite(&relay)).failed("another key answers there");
    assert!(!bare.config().exists());
}

#[test]
fn a_key_that_the_old_one_signed_is_followed_and_kept() {
    let (relay, chain) = with_chain();
    let home = Home::at(&[&relay]);
    let [second, third, thief] = [(); 3].map(|()| Identity::ephemeral());
    *chain.lock().unwrap() = vec![sign(&relay.identity, &second), sign(&second, &third)];
    relay.change_key(&second);
    let said = home.run(&["join", &invite(&relay)]).fine();
    assert!(said.contains("already joined"), "{said}");
    home.run(&["domain", "list"]).fine();
    relay.change_key(&third);
    home.run(&["domain", "list"]).fine();

    // The first key was given up: what it signs now counts for nothing.
    *chain.lock().unwrap() = vec![sign(&relay.identity, &thief)];
    relay.change_key(&thief);
    home.run(&["domain", "list"]).failed("another key answers there");
    relay.change_key(&relay.identity);
    home.run(&["domain", "list"]).failed("another key answers there");
    relay.change_key(&third);
    home.run(&["domain", "list"]).fine();

    // A new box with an old invite gets the new key into its file.
    *chain.lock().unwrap() = vec![sign(&relay.identity, &second), sign(&second, &third)];
    let bare = Home::bare();
    bare.join(&invite(&relay)).fine();
    let file = std::fs::read_to_string(bare.config()).unwrap();
    assert!(file.contains(&third.public().to_string()), "{file}");
}
