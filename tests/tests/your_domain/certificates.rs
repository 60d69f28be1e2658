//! Certificates for the mail server by way of its zone: the agent's own, and those of other programs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::certificate::{CERTIFICATE_FILE, KEY_FILE};
use sealpost_tests::machine::Machine;
use sealpost_tests::mailbox::expect_one_copy;
use sealpost_tests::message::Message;
use sealpost_tests::network::RELAY_SHARED_V4;
use sealpost_tests::pebble::{self, Pebble};
use sealpost_tests::postfix::PostfixSender;
use sealpost_tests::scene::MX_NAME;
use sealpost_tests::sealpost::{agent_does, agent_log};
use sealpost_tests::sender::{SendingServer, expect_empty_queue};
use sealpost_tests::wait::{wait_for, wait_until};
use serde_json::Value;

use crate::world::{DEADLINE, GLANCE, World, world};

const DAY: u32 = 86_400;

/// What the book tells the owner of a Postfix to write.
fn acme() -> String {
    format!(
        "[[zone]]\nname = \"home.example\"\n\
         [acme]\ndirectory = \"{}\"\nca = \"{}\"\nterms_agreed = true\n\
         certificate = \"{CERTIFICATE_FILE}\"\nkey = \"{KEY_FILE}\"\n\
         reload = [\"/usr/sbin/postfix\", \"reload\"]\n",
        pebble::DIRECTORY,
        pebble::CA_FILE,
    )
}

/// The digest of the key that the mail server shows.
fn shown(home: &Machine) -> Result<String> {
    let digest = home.run(&format!(
        "openssl s_client -connect 127.0.0.1:25 -starttls smtp -servername {MX_NAME} \
             </dev/null 2>/dev/null |
         openssl x509 -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum"
    ))?;
    digest.split_whitespace().next().map(str::to_owned).context("a digest")
}

/// What `sealpost-agent certificate` says.
fn report(world: &World<'_>) -> Result<Value> {
    Ok(world.status()?["certificate"].clone())
}

fn expect_report(world: &World<'_>, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = wait_for(what, GLANCE, || {
        last = report(world)?;
        Ok(is(&last).then(|| last.clone()))
    });
    waited.with_context(|| last.to_string())
}

/// For how many seconds resolvers may still know no record of the next key, as the agent says it.
fn left(report: &Value) -> Option<u64> {
    let waiting = report["waiting"].as_str()?;
    let (_, left) = waiting.split_once("without this key for ")?;
    left.split_once(' ')?.0.parse().ok()
}

/// Lets the time of the next key come, in steps that are shorter than resolvers remember, and demands
/// that the mail server shows the old one until then.
fn wait_for_next_key(world: &mut World<'_>) -> Result<()> {
    let home = &world.network.home;
    let before = shown(home)?;
    // The CA's resolver may know that there is no challenge, as Postfix asked for other things.
    let forgetting = |report: &Value| {
        report["waiting"].as_str().is_some_and(|why| why.contains("know the zone without it"))
    };
    expect_report(world, "the wait of the challenge", forgetting)?;
    world.internet.clock.pass(Duration::from_secs(300))?;
    expect_report(world, "the wait for the next key", |it| left(it).is_some())?;
    let step = Duration::from_secs(1200);
    for most in [2800, 1600] {
        world.internet.clock.pass(step)?;
        expect_report(world, "a shorter wait", |it| left(it).is_some_and(|left| left < most))?;
        ensure!(shown(home)? == before, "another key is shown while it is unknown to many");
    }
    world.internet.clock.pass(step)?;
    world.internet.clock.pass(step)?;
    wait_until("another key", GLANCE, || Ok(shown(home)? != before))
}

/// Lets the days pass for which the zone names keys that an owner may go back to, and demands that it
/// names the one that is shown all the time.
fn expect_gone(world: &mut World<'_>, old: [&str; 2], shown: &str) -> Result<()> {
    const DAYS: u32 = 2;
    /// They begin when the agent has noticed that a key is not needed any more.
    const TIMES: u32 = 3;
    let tlsa = format!("dig +short @{RELAY_SHARED_V4} _25._tcp.{MX_NAME} TLSA");
    let mut waited = Ok(());
    for _ in 0..TIMES {
        world.internet.clock.advance(DAYS)?;
        waited = wait_until("the old keys to leave the zone", DEADLINE, || {
            let records = world.network.sender.run(&tlsa)?.to_lowercase().replace(' ', "");
            ensure!(records.contains(shown), "the key that is shown is missing: {records}");
            Ok(!old.iter().any(|old| records.contains(old)))
        });
        if waited.is_ok() {
            break;
        }
    }
    waited
}

/// Sends a message every second until told to stop.
fn send(sender: &PostfixSender, machine: &Machine, stop: &AtomicBool) -> Result<Vec<Message>> {
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let message = Message::small("every second");
        sender.send(machine, &message)?;
        sent.push(message);
        sleep(Duration::from_secs(1));
    }
    Ok(sent)
}

#[test]
fn the_key_of_the_mail_server_changes_and_no_message_waits() -> Result<()> {
    world(&[], "", |world| {
        let pebble = Pebble::start(world.network, &mut world.internet, 90 * DAY)?;
        pebble.introduce(&world.network.home)?;
        world.own("home.example")?;
        world.reconfigure(&acme())?;
        let (home, machine) = (&world.network.home, &world.network.sender);
        let sender = world.sender()?;
        let first = shown(home)?;

        let stop = AtomicBool::new(false);
        let (sent, keys) = scope(|scope| {
            let sending = scope.spawn(|| send(&sender, machine, &stop));
            let rolled = (|| {
                wait_for_next_key(world)?;
                let second = shown(home)?;
                agent_does(home, "certificate --renew")?;
                wait_for_next_key(world)?;
                let third = shown(home)?;
                ensure!(first != second && second != third && first != third, "three keys");
                let log = agent_log(home);
                log.expect_nth(2, "the mail server shows its new key", &[], GLANCE)?;
                world.internet.clock.pass(Duration::from_secs(2 * 3600))?;
                log.expect("an old key leaves the zone", &[("key", &second)])?;
                expect_gone(world, [&first, &second], &third)?;
                Ok([second, third])
            })();
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().expect("the sending thread does not panic");
            anyhow::Ok((sent?, rolled?))
        })?;

        expect_empty_queue(&sender, machine)?;
        let log = sender.log(machine);
        for bad in [sender.deferral(), sender.bounce(), "not verified"] {
            ensure!(!log.contains(bad), "{bad}");
        }
        let verified = log.matches(sender.dane_verified()).count();
        ensure!(verified >= sent.len(), "{verified} of {} were verified", sent.len());
        for message in &sent {
            expect_one_copy(home, message)?;
        }
        println!("{} messages, keys {first} {keys:?}", sent.len());
        Ok(())
    })
}

const SECRET: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
const SECRET_FILE: &str = "/etc/sealpost/certbot.secret";

#[test]
fn others_prove_names_by_the_listener_of_the_agent() -> Result<()> {
    world(&["certbot", "lego"], "", |world| {
        let pebble = Pebble::start(world.network, &mut world.internet, 90 * DAY)?;
        let home = &world.network.home;
        pebble.introduce(home)?;
        home.write(SECRET_FILE, &format!("{SECRET}\n"))?;
        home.write(
            "/etc/certbot.ini",
            &format!(
                "dns_rfc2136_server = 127.0.0.1\ndns_rfc2136_port = 5354\n\
                 dns_rfc2136_name = certbot\ndns_rfc2136_secret = {SECRET}\n\
                 dns_rfc2136_algorithm = HMAC-SHA256\n"
            ),
        )?;
        home.write(
            "/etc/acme.key",
            &format!("key \"certbot\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n"),
        )?;
        home.run(&format!("chmod 600 {SECRET_FILE} /etc/certbot.ini /etc/acme.key"))?;
        world.reconfigure(&format!(
            "[[zone]]\nname = \"home.example\"\n\
             [[dns.key]]\nname = \"certbot\"\nsecret_file = \"{SECRET_FILE}\"\n"
        ))?;
        world.own("home.example")?;
        // An update is answered when it is served, and nobody asked yet for anything that is absent
        // beside these names: there is nothing to wait for.
        home.run(&format!(
            "REQUESTS_CA_BUNDLE={ca} certbot certonly -n --agree-tos --no-eff-email \
             -m anna@home.example --server {directory} -d {MX_NAME} -d home.example \
             --dns-rfc2136 --dns-rfc2136-credentials /etc/certbot.ini \
             --dns-rfc2136-propagation-seconds 0",
            ca = pebble::CA_FILE,
            directory = pebble::DIRECTORY,
        ))?;
        let made = home.run(&format!(
            "openssl x509 -noout -ext subjectAltName \
             -in /etc/letsencrypt/live/{MX_NAME}/fullchain.pem"
        ))?;
        ensure!(made.contains("DNS:mx.home.example, DNS:home.example"), "{made}");
        // Another name: everybody's resolver remembers the challenges that it was shown.
        let name = "mx2.home.example";
        home.run(&format!(
            "LEGO_CA_CERTIFICATES={ca} RFC2136_NAMESERVER=127.0.0.1:5354 RFC2136_TSIG_KEY=certbot \
             RFC2136_TSIG_SECRET_FILE={SECRET_FILE} RFC2136_TSIG_ALGORITHM=hmac-sha256. \
             RFC2136_POLLING_INTERVAL=1 \
             lego --path /etc/lego --accept-tos --email anna@home.example --server {directory} \
             --dns rfc2136 --dns.resolvers 127.0.0.1:5354 --domains {name} run",
            ca = pebble::CA_FILE,
            directory = pebble::DIRECTORY,
        ))?;
        let made = home.run(&format!(
            "openssl x509 -noout -ext subjectAltName -in /etc/lego/certificates/{name}.crt"
        ))?;
        ensure!(made.contains(&format!("DNS:{name}")), "{made}");
        // What acme.sh sends, which Debian does not have: without the zone's name.
        let challenge = format!("_acme-challenge.{MX_NAME}");
        for (update, there) in [
            (format!("add {challenge}. 60 in txt \"of acme.sh\""), true),
            (format!("delete {challenge}. txt"), false),
        ] {
            home.run(&format!(
                "nsupdate -k /etc/acme.key <<END\nserver 127.0.0.1 5354\nupdate {update}\nsend\nEND"
            ))?;
            let seen = world.asked(&challenge, "TXT")?;
            ensure!(seen.contains("of acme.sh") == there, "{update}: {seen}");
        }
        // All have tidied up.
        for name in [MX_NAME, name] {
            let left = world.asked(&format!("_acme-challenge.{name}"), "TXT")?;
            ensure!(left.contains("status: NXDOMAIN"), "{left}");
        }
        world.expect_served("home.example")
    })
}
