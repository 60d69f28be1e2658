//! A real agent that makes zones, before the programs of others: dig and ldns-verify-zone look at
//! them, NSD has them by AXFR, nsupdate changes them, Knot is a hidden primary; and a relay that
//! takes them through the tunnel.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod agent;
mod mail_server;
mod programs;
mod relay;

use std::fs;
use std::time::Duration;

use agent::{Agent, Home};
use programs::{Nsd, Primary, dig, judged, nsupdate, validated, verify};
use relay::Relay;

const ZONE: &str = "a.example";
/// With a name server of somebody else's, so that no relay is needed.
const ALONE: &str = "[[zone]]\nname = \"a.example\"\nname_servers = [\"ns1.example.net\"]\n";

/// A listener with keys, whose secrets are written to files.
fn dns(home: &Home) -> String {
    let key = |name: &str, update: &str| {
        let file = home.file(&format!("{name}.secret"), programs::SECRET);
        format!("[[dns.key]]\nname = \"{name}\"\nsecret_file = {file:?}\nupdate = \"{update}\"\n")
    };
    format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\n{}{}{}",
        key("certbot", "challenges"),
        key("all", "all"),
        key("transfer", "none")
    )
}

#[test]
fn what_is_made_verifies_and_other_servers_take_it() {
    let home = Home::new(&[]);
    let own = home.file("own.zone", "www 60 A 192.0.2.80\n*.wild TXT x\n");
    let dkim =
        home.file("mail.txt", "mail._domainkey IN TXT ( \"v=DKIM1; k=rsa; \" \"p=QUJD\" ) ; x\n");
    home.write(&format!(
        "{ALONE}include = [{own:?}]\ndkim = [{{ selector = \"s1\", file = {dkim:?} }}]\n\
         dmarc = \"v=DMARC1; p=none\"\ncontact = \"me@a.example\"\ndenial = \"nsec3\"\n{}",
        dns(&home)
    ));
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    let text = dig(agent.dns(), ZONE, "AXFR");
    for wanted in [
        "192.0.2.80",
        "v=DKIM1; k=rsa; p=QUJD",
        "NSEC3",
        "sealpost1 box=",
        "me.a.example.",
        "ZONEMD",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    verify(&home, ZONE, &text);
    let nsd = Nsd::start(ZONE, agent.dns());
    let serial = agent.serial(ZONE);
    programs::until(|| dig(nsd.address(), ZONE, "SOA").contains(&serial.to_string()));
    assert!(dig(agent.dns(), "b.example", "AXFR").contains("Transfer failed"));
    assert!(dig(agent.dns(), "www.a.example", "A").contains("192.0.2.80"));
}

#[test]
fn programs_change_what_they_may_and_it_lasts() {
    let home = Home::new(&[]);
    home.write(&format!("{ALONE}{}", dns(&home)));
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    let add = "update add _acme-challenge.mx.a.example. 60 TXT token-1";
    nsupdate(agent.dns(), "certbot", ZONE, add).unwrap();
    let serial = agent.serial(ZONE);
    assert!(dig(agent.dns(), "_acme-challenge.mx.a.example", "TXT").contains("token-1"));
    // What is not a challenge, not in the zone, or not signed with a key for it.
    for (key, line, wanted) in [
        ("certbot", "update add www.a.example. 60 A 192.0.2.1", "REFUSED"),
        ("certbot", "update delete a.example. SOA", "REFUSED"),
        ("transfer", add, "REFUSED"),
        ("all", "update add a.example. 60 NS ns.elsewhere.", "REFUSED"),
        ("all", "update add x.b.example. 60 A 192.0.2.1", "NOTZONE"),
        ("nobody", add, "NOTAUTH"),
    ] {
        let error = nsupdate(agent.dns(), key, ZONE, line).unwrap_err();
        assert!(error.contains(wanted) || error.contains("tsig"), "{key} {line}: {error}");
    }
    let other = nsupdate(
        agent.dns(),
        "certbot",
        "b.example",
        "update add _acme-challenge.b.example. 60 TXT x",
    );
    assert!(other.unwrap_err().contains("NOTAUTH"));
    assert_eq!(agent.serial(ZONE), serial, "what was refused left no trace");
    nsupdate(
        agent.dns(),
        "all",
        ZONE,
        "prereq nxdomain www.a.example.\nupdate add www.a.example. 60 A 192.0.2.1",
    )
    .unwrap();
    let again = "prereq nxdomain www.a.example.\nupdate add www.a.example. 60 A 192.0.2.2";
    assert!(nsupdate(agent.dns(), "all", ZONE, again).unwrap_err().contains("YXDOMAIN"));
    let text = dig(agent.dns(), ZONE, "AXFR");
    verify(&home, ZONE, &text);

    drop(agent);
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    let text = dig(agent.dns(), ZONE, "AXFR");
    assert!(text.contains("token-1") && text.contains("192.0.2.1"), "{text}");
    nsupdate(agent.dns(), "certbot", ZONE, "update delete _acme-challenge.mx.a.example. TXT")
        .unwrap();
    assert!(!dig(agent.dns(), ZONE, "AXFR").contains("token-1"));
}

#[test]
fn records_of_updates_that_cannot_be_read_stay_in_the_zone() {
    let home = Home::new(&[]);
    home.write(&format!("{ALONE}{}", dns(&home)));
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    nsupdate(agent.dns(), "all", ZONE, "update add www.a.example. 60 A 192.0.2.1").unwrap();
    let serial = agent.serial(ZONE);
    drop(agent);
    let file = home.path().join("state/zones").join(ZONE).join("updates.zone");
    fs::write(&file, "www.a.example. 60 IN A nonsense\n").unwrap();
    let agent = Agent::start(&home);
    agent.expect("updates.zone:1: ");
    assert_eq!(agent.serial(ZONE), serial);
    assert!(dig(agent.dns(), "www.a.example", "A").contains("192.0.2.1"));
    let error = nsupdate(agent.dns(), "all", ZONE, "update add x.a.example. 60 A 192.0.2.1");
    assert!(error.unwrap_err().contains("SERVFAIL"));
    // Moved away, as the message says, they are given up.
    drop(agent);
    fs::remove_file(&file).unwrap();
    let agent = Agent::start(&home);
    programs::until(|| !dig(agent.dns(), "www.a.example", "A").contains("192.0.2.1"));
}

#[test]
fn a_hidden_primary_is_passed_on_as_it_is() {
    let home = Home::new(&[]);
    let knot = Primary::start(
        ZONE,
        "@ SOA ns h 100 60 30 9999 60\n@ NS ns1.example.net.\nwww A 192.0.2.1\n",
    );
    let port = home.free_port();
    home.write(&format!(
        "[[zone]]\nname = \"{ZONE}\"\nprimary = \"{}\"\n[dns]\nlisten = \"127.0.0.1:{port}\"\n",
        knot.address()
    ));
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    assert_eq!(dig(agent.dns(), ZONE, "DNSKEY"), dig(knot.address(), ZONE, "DNSKEY"));
    let status = agent.expect("relays cannot see that this box may have the domain");
    assert!(status.contains(&knot.address().to_string()), "{status}");
    // The primary says that it changed.
    knot.notify_to(agent.dns());
    knot.change("www 60 A 192.0.2.77");
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.77"));
    // What was taken over is there when the primary is away.
    drop(agent);
    drop(knot);
    let agent = Agent::start(&home);
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.77"));
    agent.expect("Connection refused");
}

#[test]
fn a_hidden_primary_that_demands_a_key_is_followed_by_who_has_it_alone() {
    let content = "@ SOA ns h 100 60 30 9999 60\n@ NS ns1.example.net.\nwww A 192.0.2.1\n";
    let knot = Primary::with_key(ZONE, content, Some("transfer"));
    let home = Home::new(&[]);
    let port = home.free_port();
    let with_key = |key: &str| {
        home.write(&format!(
            "[[zone]]\nname = \"{ZONE}\"\nprimary = \"{}\"\n{key}{}",
            knot.address(),
            dns(&home).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
        ));
    };
    // Nobody has it without, nor the agent.
    assert!(!dig(knot.address(), ZONE, "AXFR").contains("192.0.2.1"));
    with_key("");
    let agent = Agent::start(&home);
    let status = agent.expect("the primary 127.0.0.1");
    assert!(status.contains("NOTAUTH") || status.contains("REFUSED"), "{status}");
    drop(agent);
    with_key("primary_key = \"transfer\"\n");
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    assert_eq!(dig(agent.dns(), ZONE, "DNSKEY"), dig(knot.address(), ZONE, "DNSKEY"));
    // Its word that the zone changed is signed as well.
    knot.notify_to(agent.dns());
    knot.change("www 60 A 192.0.2.77");
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.77"));
    drop(agent);

    // With a wrong secret it is said so, and what is here stays.
    home.file("transfer.secret", "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=\n");
    let agent = Agent::start(&home);
    knot.change("www 60 A 192.0.2.78");
    agent.expect("the server refused the TSIG signature: BADSIG");
    assert!(dig(agent.dns(), "www.a.example", "A").contains("192.0.2.77"));
    drop(agent);
    // And with one of which the primary never heard.
    with_key("primary_key = \"certbot\"\n");
    let agent = Agent::start(&home);
    agent.expect("the server refused the TSIG signature: BADKEY");
    assert!(dig(agent.dns(), "www.a.example", "A").contains("192.0.2.77"));
    drop(agent);
    with_key("primary_key = \"transfer\"\n");
    let agent = Agent::start(&home);
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.78"));
}

#[test]
fn a_relay_has_the_zone_through_the_tunnel_and_what_it_said_outlives_it() {
    let relay = Relay::start(ZONE);
    let home = Home::new(&[&relay]);
    home.write(&format!("[[zone]]\nname = \"{ZONE}\"\n{}", dns(&home)));
    let agent = Agent::start(&home);
    let status = agent.expect("\"up_to_date\":true");
    let serial = agent.serial(ZONE);
    assert_eq!(relay.serial(), Some(serial), "{status}");
    let text = dig(agent.dns(), ZONE, "AXFR");
    for wanted in ["NS\tns1.relay.example.", "MX\t20 mx.a.example.", "198.51.100.1"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(relay.offered());
    // Who changes something is answered when the relay serves it.
    nsupdate(agent.dns(), "certbot", ZONE, "update add _acme-challenge.a.example. 60 TXT token")
        .unwrap();
    assert!(relay.text().contains("token"));
    // Only what changed was sent.
    assert!(relay.incremental());

    // A tunnel that comes back is told of the zone again.
    let told = relay.notices();
    relay.cut();
    programs::until(|| relay.notices() > told);

    // A relay that has a newer version, as after a backup was restored here, is overtaken.
    let newer = relay.run_ahead(1000);
    relay.cut();
    programs::until(|| agent.serial(ZONE) == newer + 1);
    programs::until(|| relay.serial() == Some(newer + 1));

    // While the relay is away the zone still names it.
    drop(relay);
    drop(agent);
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    nsupdate(agent.dns(), "certbot", ZONE, "update add _acme-challenge.a.example. 60 TXT more")
        .unwrap();
    let text = dig(agent.dns(), ZONE, "AXFR");
    assert!(text.contains("ns1.relay.example.") && text.contains("198.51.100.1"), "{text}");
    // Until the owner takes it out of the file.
    home.forget_relays();
    home.write(&format!("{ALONE}{}", dns(&home)));
    agent.reload();
    programs::until(|| !dig(agent.dns(), ZONE, "AXFR").contains("ns1.relay.example."));
}

#[test]
fn the_keys_of_the_mail_server_stand_in_the_zone_before_and_after_a_change() {
    let relay = Relay::start(ZONE);
    let home = Home::new(&[&relay]);
    let (first, second) = (mail_server::Key::new(), mail_server::Key::new());
    let third = mail_server::Key::new();
    let (address, alive) = mail_server::start(None, &first);
    home.write(&format!(
        "[[service]]\nname = \"smtp\"\naddress = \"{address}\"\nproxy = \"none\"\n\
         [[zone]]\nname = \"{ZONE}\"\n{}",
        dns(&home)
    ));
    let agent = Agent::start(&home);
    let tlsa = |agent: &Agent| dig(agent.dns(), "_25._tcp.mx.a.example", "TLSA");
    programs::until(|| tlsa(&agent).contains(&first.digest()));
    // Another key, as after the owner changed it by hand while the agent was away.
    drop(agent);
    mail_server::end(address, alive);
    let (_, alive) = mail_server::start(Some(address), &second);
    let agent = Agent::start(&home);
    programs::until(|| tlsa(&agent).contains(&second.digest()));
    assert!(tlsa(&agent).contains(&first.digest()), "senders may have seen the old one just now");
    // And once more while it runs, which it finds out by itself.
    mail_server::end(address, alive);
    let (_, alive) = mail_server::start(Some(address), &third);
    programs::until(|| tlsa(&agent).contains(&third.digest()));
    // A mail server that is away says nothing about its keys.
    drop(agent);
    mail_server::end(address, alive);
    let agent = Agent::start(&home);
    agent.expect("the mail server's key: ");
    for key in [&first, &second, &third] {
        assert!(tlsa(&agent).contains(&key.digest()));
    }
}

#[test]
fn a_file_of_the_owners_that_changes_is_in_the_zone_soon() {
    let home = Home::new(&[]);
    let own = home.file("own.zone", "www 60 A 192.0.2.80\n");
    home.write(&format!("{ALONE}include = [{own:?}]\n{}", dns(&home)));
    let agent = Agent::start(&home);
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.80"));
    fs::write(&own, "www 60 A 192.0.2.81\n").unwrap();
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.81"));
    // As an editor does it: another file in its place. And a mistake, and the mistake put right.
    let serial = agent.serial(ZONE);
    fs::rename(home.file("new.zone", "www 60 A nonsense\n"), &own).unwrap();
    agent.expect("own.zone:1: ");
    assert_eq!(agent.serial(ZONE), serial);
    fs::rename(home.file("new.zone", "www 60 A 192.0.2.82\n"), &own).unwrap();
    programs::until(|| dig(agent.dns(), "www.a.example", "A").contains("192.0.2.82"));
}

#[test]
fn the_key_of_the_parent_leaves_the_box_and_its_kit_signs_on() {
    let home = Home::new(&[]);
    home.write(&format!("{ALONE}keys = \"split\"\n{}", dns(&home)));
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    let ds = home.run(&["dns", "ds", ZONE]).unwrap();
    let keys = home.path().join("state/zones").join(ZONE);
    let kit = home.path().join("stick.txt");
    let kit = kit.to_str().unwrap();
    let said = home.run(&["dns", "offline", ZONE, "--kit", kit, "--validity", "50d"]).unwrap();
    assert!(said.contains("has left this box") && !keys.join("entry.key").exists(), "{said}");
    // The running agent takes it up by itself, and warns: it is less than 60 days.
    agent.expect("\"keys_until\":1");
    let text = || dig(agent.dns(), ZONE, "AXFR");
    let days = |days: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let ends = humantime::format_rfc3339(
            std::time::UNIX_EPOCH + now + Duration::from_secs(days * 86_400),
        );
        ends.to_string()[..10].replace('-', "")
    };
    let lists = |day: &str| {
        let over = |line: &&str| line.contains("RRSIG\tDNSKEY 13");
        text().lines().filter(over).all(|line| line.contains(&format!(" {day}")))
    };
    assert!(lists(&days(50)), "{}", text());
    verify(&home, ZONE, &text());
    judged(&home, ZONE, &text());
    validated(&home, agent.dns(), ZONE, ZONE, "CDS");
    assert_eq!(home.run(&["dns", "ds", ZONE]).unwrap(), ds, "the parent is asked for the same");
    let said = home.run(&["status"]).unwrap_or_else(|said| said);
    assert!(said.contains("KEYS      the list of keys ends in 49 days"), "{said}");
    let error = home.run(&["dns", "rollover", ZONE]).unwrap_err();
    assert!(error.contains("recovery kit"), "{error}");
    // What changes is signed meanwhile, without the kit.
    nsupdate(agent.dns(), "all", ZONE, "update add www.a.example. 60 A 192.0.2.1").unwrap();
    verify(&home, ZONE, &text());
    validated(&home, agent.dns(), ZONE, "www.a.example", "A");

    // The owner comes with the kit, for another key of the records too.
    assert!(home.run(&["dns", "sign-keys", ZONE, "--kit", kit, "--validity", "401d"]).is_err());
    let said = home.run(&["dns", "sign-keys", ZONE, "--kit", kit, "--new-zone-key"]).unwrap();
    assert!(said.contains("is being changed"), "{said}");
    programs::until(|| lists(&days(365)));
    assert_eq!(text().matches("DNSKEY\t256 ").count(), 2, "{}", text());
    verify(&home, ZONE, &text());
    judged(&home, ZONE, &text());
    let said = home.run(&["status"]).unwrap_or_else(|said| said);
    assert!(!said.contains("KEYS "), "{said}");

    // Another kit is refused; a restart needs none; and the key can come back.
    let foreign =
        home.file("other.txt", &std::fs::read_to_string(kit).unwrap().replace(ZONE, "b.example"));
    let error =
        home.run(&["dns", "sign-keys", ZONE, "--kit", foreign.to_str().unwrap()]).unwrap_err();
    assert!(error.contains("b.example"), "{error}");
    drop(agent);
    let agent = Agent::start(&home);
    agent.expect("\"keys_until\":1");
    home.run(&["dns", "offline", ZONE, "--kit", kit, "--back"]).unwrap();
    agent.expect("\"keys_until\":null");
    let text = dig(agent.dns(), ZONE, "AXFR");
    verify(&home, ZONE, &text);
    judged(&home, ZONE, &text);
    assert!(keys.join("entry.key").exists() && !keys.join("endorsed.zone").exists());
    assert_eq!(home.run(&["dns", "ds", ZONE]).unwrap(), ds);
}

#[test]
fn one_key_for_everything_becomes_two_before_it_can_leave() {
    let home = Home::new(&[]);
    home.write(&format!("{ALONE}{}", dns(&home)));
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    let kit = home.path().join("stick.txt");
    let said = home.run(&["dns", "offline", ZONE, "--kit", kit.to_str().unwrap()]).unwrap();
    assert!(said.contains("Type this command again") && !kit.exists(), "{said}");
    programs::until(|| dig(agent.dns(), ZONE, "DNSKEY").contains("256 3 13"));
    let text = dig(agent.dns(), ZONE, "AXFR");
    verify(&home, ZONE, &text);
    judged(&home, ZONE, &text);
}

#[test]
fn a_mistake_of_the_owners_keeps_the_last_zone() {
    let home = Home::new(&[]);
    let own = home.file("own.zone", "www 60 A 192.0.2.80\n");
    let file = format!("{ALONE}include = [{own:?}]\n{}", dns(&home));
    home.write(&file);
    let agent = Agent::start(&home);
    agent.expect("\"serial\":1");
    let serial = agent.serial(ZONE);
    fs::write(&own, "www 60 A 192.0.2.80\nwww 60 A nonsense\n").unwrap();
    assert!(home.run(&["check-config"]).unwrap_err().contains("own.zone:2: "));
    // A zone that changed in the file is made anew.
    home.write(&file.replace("include", "spf = \"v=spf1 -all\"\ninclude"));
    agent.reload();
    agent.expect("own.zone:2: ");
    assert_eq!(agent.serial(ZONE), serial);
    assert!(dig(agent.dns(), "www.a.example", "A").contains("192.0.2.80"));
    let said = home.run(&["status"]).unwrap_err();
    assert!(said.contains("FAILED") && said.contains("the last version stays"), "{said}");
    fs::write(&own, "www 60 A 192.0.2.80\n").unwrap();
    assert!(home.run(&["check-config"]).unwrap().contains("zones: 1"));
}

/// For what must not take long, and must not be timed.
const PATIENCE: Duration = Duration::from_secs(150);
