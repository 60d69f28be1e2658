//! The commands against relays that answer with junk, without end, about somebody else, half or
//! not at all: each ends with a clear error, and nothing on disk changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod daemon;
mod halves;
mod home;
mod relay;
mod succession;

use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Answer, Identity, PublicKey, Request, ResetCode};

use home::{Home, file, invite};
use relay::{Relay, Reply, known, refused};

type Case = (&'static str, fn(PublicKey) -> Reply, &'static str);

/// What a hostile relay says to everything, and a word of the error.
const CASES: [Case; 11] = [
    ("junk", |_| Reply::Octets(b"220 hello\r\n".to_vec()), "it is not one of the known"),
    ("deep", |_| Reply::Octets(vec![b'['; 100_000]), "it is not one of the known"),
    ("two", |_| Reply::Octets(br#"{"answer":"left"} {"answer":"left"}"#.to_vec()), "not one of"),
    ("empty", |_| Reply::Octets(Vec::new()), "it is not one of the known"),
    ("endless", |_| Reply::Endless, "octets or more, but at most"),
    ("nothing", |_| Reply::Nothing, "did not answer within 10 s"),
    ("half", |_| Reply::Half, "gave the request up: aborted"),
    ("close", |_| Reply::Close(ResetCode::Draining), "the relay broke off: go[31m away"),
    ("other box", |_| known(Identity::ephemeral().public()), "it speaks of a box with the key"),
    ("other kind", |_| Reply::Answer(Answer::Succession { chain: vec![] }), "none to what was"),
    ("unavailable", |_| refused(RefusalCode::Unavailable), "refused for unavailable"),
];

/// All cases at once, as some take their time.
fn each_case(test: fn(Relay, &'static str)) {
    std::thread::scope(|scope| {
        for (name, reply, word) in CASES {
            let case = scope.spawn(move || test(Relay::start(move |key, _| reply(key)), word));
            // The scope reports a panic without saying in which case.
            scope.spawn(move || case.join().unwrap_or_else(|_| panic!("the case {name:?}")));
        }
    });
}

#[test]
fn nothing_is_joined_at_a_hostile_relay() {
    each_case(|relay, word| {
        let home = Home::bare();
        home.join(&invite(&relay)).failed(word);
        let files: Vec<_> = home.files().into_keys().collect();
        assert_eq!(files, [home.state().join("agent.key")], "the box's key alone is there");
    });
}

#[test]
fn no_command_changes_anything_at_a_hostile_relay() {
    each_case(|relay, word| {
        let home = Home::at(&[&relay]);
        let before = home.files();
        std::thread::scope(|scope| {
            for command in [
                &["leave", "r0"][..],
                &["domain", "add", "example.org"],
                &["domain", "list"],
                &["domain", "remove", "example.org"],
                &["recovery-kit"],
            ] {
                let home = &home;
                scope.spawn(move || {
                    let said = home.run(command).failed(word);
                    assert!(!said.contains("sealpost-kit:"), "no kit that no relay knows: {said}");
                });
            }
        });
        assert_eq!(home.files(), before);
        // A rotation keeps the new key for the next attempt, and goes on with the old one.
        let key = home.key();
        home.run(&["key", "rotate"]).failed(word);
        assert_eq!(home.key(), key);
        assert_eq!(home.files().len(), before.len() + 1);
    });
}

#[test]
fn nothing_is_recovered_at_a_hostile_relay() {
    each_case(|relay, word| {
        let home = Home::bare();
        let kit = halves::kit_of(&[&relay], &Identity::generate().1);
        let kit = file(&home, "kit", &kit);
        let state = home.state();
        let said = home.run(&["recover", &kit, "--state", state.to_str().unwrap()]).failed(word);
        assert!(said.contains("NOT DONE"), "{said}");
        assert!(!home.config().exists());
    });
}

#[test]
fn a_relay_that_agrees_and_does_nothing_is_not_believed() {
    let relay = Relay::start(|key, _| known(key));
    let home = Home::at(&[&relay]);
    let before = home.files();
    home.run(&["domain", "add", "example.org"]).failed("does not list the domain");
    home.run(&["dns"]).failed("no domain is claimed");
    home.run(&["recovery-kit"]).failed("does not have the kit's key");
    home.run(&["leave", "r0"]).failed("none to what was asked");
    assert_eq!(home.files(), before);
}

#[test]
fn a_domain_that_is_given_up_leaves_its_zone_until_the_owner_wants_it_gone() {
    let (relay, away) = (Relay::start(|key, _| known(key)), Relay::start(|_, _| Reply::Half));
    let zone = "# Of the domain.\n[[zone]]\nname = \"example.org\"\n[[zone.dkim]]\nselector = \"s\"\nfile = \"/x\"\n";
    let write = |home: &Home| {
        let text = std::fs::read_to_string(home.config()).unwrap();
        std::fs::write(home.config(), format!("{text}\n{zone}")).unwrap();
        text
    };
    let home = Home::at(&[&relay]);
    let before = write(&home);
    let said = home.run(&["domain", "remove", "example.org"]).fine();
    assert!(said.contains("is still in") && said.contains("DS record"), "{said}");
    let said = home.run(&["domain", "remove", "example.org", "--zone"]).fine();
    assert!(
        said.contains("was taken out of") && said.contains("state/zones/example.org"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(home.config()).unwrap().trim_end(), before.trim_end());

    // Where one relay has it still, or was not asked, so has the file.
    let home = Home::at(&[&relay, &away]);
    write(&home);
    let left = home.run(&["domain", "remove", "example.org", "--zone"]).failed("stays in");
    assert!(!left.contains("was taken out"), "{left}");
    home.run(&["domain", "remove", "example.org", "--zone", "--relay", "r0"])
        .failed("for all relays");
    assert!(std::fs::read_to_string(home.config()).unwrap().ends_with(zone));
}

#[test]
fn no_name_outside_a_domain_is_printed_to_be_published() {
    let relay = Relay::start(|key, _| {
        let mut standing = relay::standing(key);
        standing.domains = serde_json::from_value(serde_json::json!([{
            "domain": "example.org", "mx": ["mx.example.net", "mx.example.org"],
            "state": "proved", "method": "txt",
        }]))
        .unwrap();
        Reply::Answer(Answer::Standing(standing.into()))
    });
    let said = Home::at(&[&relay]).run(&["dns"]).fine();
    assert!(said.contains("example.org. 3600 IN MX 20 mx.example.org."), "{said}");
    assert!(!said.contains("mx.example.net"), "{said}");
    assert!(said.contains("; The key is not known: the file names no service"), "{said}");
}

#[test]
fn what_was_typed_wrongly_reaches_no_relay() {
    let relay = Relay::start(|key, _| known(key));
    let home = Home::bare();
    let line = invite(&relay);
    for (text, word) in [
        (&line[..line.len() - 5], "damaged"),
        (&line.replacen("key=", "kex=", 1), "damaged"),
        ("https://relay.example.net/join", "not an invite"),
        ("sealpost-kit:alice?relay=x#y", "not an invite"),
    ] {
        home.join(text).failed(word);
    }
    assert!(home.files().is_empty());
    let kit = file(&home, "kit", &line);
    home.run(&["recover", &kit]).failed("not a recovery kit");
    let home = Home::at(&[&relay]);
    home.run(&["domain", "list", "--relay", "r7"]).failed("the file has: r0");
    home.run(&["domain", "add", "example.org", "--mx", "mx.example.net"]).failed("beneath it");
    home.run(&["leave", "r7"]).failed("no relay named `r7`");
}

#[test]
fn an_invite_or_claim_that_is_refused_says_why_in_the_relays_words() {
    let relay = Relay::start(|_, request| match request {
        Request::Standing => refused(RefusalCode::UnknownBox),
        _ => refused(RefusalCode::InviteSpent),
    });
    let home = Home::bare();
    home.join(&invite(&relay)).failed("refused for invite-spent");
    assert!(!home.config().exists());

    let relay = Relay::start(|key, request| match request {
        Request::Standing => known(key),
        _ => refused(RefusalCode::NotProved),
    });
    let home = Home::at(&[&relay]);
    let said = home.run(&["domain", "add", "bücher.example"]).failed("refused for not-proved");
    assert!(said.contains("bücher.example (xn--bcher-kva.example)"), "{said}");
    let record = "_sealpost.xn--bcher-kva.example. 3600 IN TXT \"sealpost1 box=";
    assert!(said.contains(record), "{said}");
}
