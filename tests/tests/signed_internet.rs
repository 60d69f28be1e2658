//! The signed internet of the harness proves itself: from its root to Postfix by way of a domain that
//! its owner signs and `sealpost-dns` serves. What holds and fails here holds and fails for Sealpost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::certificate::Certificate;
use sealpost_tests::machine::Machine;
use sealpost_tests::mailbox::{expect_delivered, expect_delivered_while};
use sealpost_tests::message::Message;
use sealpost_tests::network::{FURTHER_BOX, Network, RELAY_SHARED_V4};
use sealpost_tests::nsd::{self, Zone};
use sealpost_tests::packages::unpacked;
use sealpost_tests::pebble::{self, Pebble};
use sealpost_tests::postfix::{self, PostfixSender};
use sealpost_tests::process::Process;
use sealpost_tests::scene::{MX_NAME, allowed, with_log_tails};
use sealpost_tests::sender::{SendingServer, Tls, expect_deferred, expect_log};
use sealpost_tests::signed_internet::SignedInternet;
use sealpost_tests::wait::wait_until;

/// The address of [`FURTHER_BOX`], where the mail server and the hidden primary are.
const BOX: &str = "192.0.2.194";
const NAME_SERVER_OF_DOMAIN: &str = "ns1.relay.example.net";
const TLSA: &str = "_25._tcp.mx.home.example";
const DIRECTORY: &str = "/etc/zones";
const DOMAIN: Zone<'_> = Zone { origin: "home.example.", file: "home" };
const DEADLINE: Duration = Duration::from_secs(30);
const DAY: u32 = 86_400;

/// A domain that is signed at its owner's and served by `sealpost-dns` on the relay's machine.
struct Domain<'a> {
    owner: &'a Machine,
    primary: Process,
    _secondary: Process,
    serial: u32,
    ds: String,
}

impl<'a> Domain<'a> {
    fn start(
        network: &Network,
        internet: &mut SignedInternet<'_>,
        owner: &'a Machine,
        tlsa: &str,
    ) -> Result<Self> {
        let ds = sign(owner, 1, tlsa)?;
        let more =
            format!("  provide-xfr: {RELAY_SHARED_V4} NOKEY\n  notify: {RELAY_SHARED_V4} NOKEY\n");
        let primary = nsd::start(owner, "primary", BOX, DIRECTORY, &[DOMAIN], &more)?;
        network.relay.write(
            "/etc/sealpost/dns.toml",
            &format!(
                "state = \"/var/lib/sealpost-dns\"\nlisten = [\"{RELAY_SHARED_V4}:53\"]\nthreads = 1\n\
                 [[zone]]\nname = \"home.example\"\nprimaries = [{{ address = \"{BOX}:53\" }}]\n\
                 trust = [\"{ds}\"]\n"
            ),
        )?;
        let command = ["/opt/sealpost/sealpost-dns", "run", "--config", "/etc/sealpost/dns.toml"];
        let secondary = internet.clock.start(&network.relay, "sealpost-dns", &command)?;
        let domain = Domain { owner, primary, _secondary: secondary, serial: 1, ds };
        domain.expect_served()?;
        internet.host(NAME_SERVER_OF_DOMAIN, RELAY_SHARED_V4)?;
        Ok(domain)
    }

    /// Signs and serves the zone with this TLSA record instead.
    fn change(&mut self, tlsa: &str) -> Result<()> {
        self.serial += 1;
        sign(self.owner, self.serial, tlsa)?;
        self.primary.signal(self.owner, "HUP")?;
        self.expect_served()
    }

    fn expect_served(&self) -> Result<()> {
        let new = format!("hostmaster.home.example. {} ", self.serial);
        wait_until("the zone to be served", DEADLINE, || Ok(self.asked()?.contains(&new)))
    }

    /// What `sealpost-dns` answers.
    fn asked(&self) -> Result<String> {
        self.owner.run(&format!("drill @{RELAY_SHARED_V4} home.example SOA || true"))
    }

    /// Tells `sealpost-dns` to ask the primary, whether that is there or not.
    fn nudge(&self) -> Result<()> {
        let notify = "+opcode=notify +norecurse +tries=1 +timeout=1";
        self.owner.attempt(&format!("dig {notify} @{RELAY_SHARED_V4} home.example SOA")).map(drop)
    }
}

fn sign(owner: &Machine, serial: u32, tlsa: &str) -> Result<String> {
    owner.write(
        &format!("{DIRECTORY}/{}", DOMAIN.file),
        &format!(
            "$TTL 1\nhome.example. SOA {NAME_SERVER_OF_DOMAIN}. hostmaster.home.example. {serial} \
             3600 15 {expire} 1\nhome.example. NS {NAME_SERVER_OF_DOMAIN}.\n\
             home.example. MX 10 {MX_NAME}.\n{MX_NAME}. A {BOX}\n{TLSA}. TLSA {tlsa}\n",
            expire = 30 * DAY
        ),
    )?;
    let ds = nsd::sign(owner, DIRECTORY, DOMAIN, &[])?;
    // home.example. 3600 IN DS TAG ALGORITHM TYPE DIGEST
    Ok(ds.split_once("DS").context("a DS record")?.1.trim().to_owned())
}

/// Waits until everybody may know, and believe, that this is the key of the mail server.
fn expect_tlsa(internet: &SignedInternet<'_>, certificate: &Certificate) -> Result<()> {
    // It is printed in capitals and in pieces.
    let start = certificate.tlsa()[..20].to_uppercase();
    internet.expect_delv(TLSA, "TLSA", &["; fully validated", &start]).map(drop)
}

/// `trees` are packages for the owner, beside the name server and Postfix.
fn with_internet(
    trees: &[&str],
    play: impl for<'a> FnOnce(&'a Network, &mut SignedInternet<'a>, &Machine) -> Result<()>,
) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let programs = sealpost_tests::programs::directory()?;
    let (dns, postfix) = (unpacked("dns")?, unpacked("postfix")?);
    let mut network = Network::start(&programs, &dns, std::slice::from_ref(&postfix), &[])?;
    let mut layers = vec![dns, postfix];
    for tree in trees {
        layers.push(unpacked(tree)?);
    }
    let owner: Arc<Machine> = network.add(FURTHER_BOX, &layers)?;
    with_log_tails(&network, || {
        let mut internet = SignedInternet::start(&network)?;
        internet.introduce(&owner)?;
        play(&network, &mut internet, &owner)
    })
}

#[test]
fn from_the_root_to_postfix_each_link_holds_and_fails() -> Result<()> {
    with_internet(&[], |network, internet, owner| {
        let certificate = Certificate::for_name(MX_NAME)?;
        certificate.install(owner)?;
        postfix::start_at_home_with(owner, "inet_interfaces = all")?;
        internet.introduce(owner)?;
        let mut domain = Domain::start(network, internet, owner, certificate.tlsa())?;
        internet.expect_delv(TLSA, "TLSA", &["NXDOMAIN"])?;
        internet.delegate("home.example", &[NAME_SERVER_OF_DOMAIN], &[&domain.ds.clone()])?;
        expect_tlsa(internet, &certificate)?;
        internet.expect_delv("nobody.example", "A", &["negative response, fully validated"])?;

        let sender = PostfixSender::start(&network.sender, Tls::Dane)?;
        let deliver = |subject: &str, how: &str| -> Result<()> {
            let message = Message::small(subject);
            sender.send(&network.sender, &message)?;
            let said = format!("{how} TLS connection established to {MX_NAME}[{BOX}]");
            expect_log(&sender, &network.sender, &[&said], DEADLINE)?;
            expect_delivered(owner, &message, DEADLINE)
        };
        // Looked at fifty times a second; the sender's queue is nudged every second.
        let arrives = |message: &Message| {
            let mut looks = 0;
            expect_delivered_while(owner, message, DEADLINE, || {
                looks += 1;
                if looks % 50 == 1 { sender.flush(&network.sender) } else { Ok(()) }
            })
        };
        deliver("verified", "Verified")?;

        let other = Certificate::for_name(MX_NAME)?;
        domain.change(other.tlsa())?;
        expect_tlsa(internet, &other)?;
        // Its processes remember a record for a second longer than it lives.
        let forget = || network.sender.run("postfix stop 2>/dev/null; postfix start 2>/dev/null");
        forget()?;
        let message = Message::small("to another key");
        sender.send(&network.sender, &message)?;
        let reason = expect_deferred(&sender, &network.sender)?;
        ensure!(reason.contains("Server certificate not verified"), "{reason}");
        domain.change(certificate.tlsa())?;
        expect_tlsa(internet, &certificate)?;
        arrives(&message)?;

        // The digest of another key stands at the registrar.
        let (head, digest) = domain.ds.rsplit_once(' ').context("a digest")?;
        let wrong = format!("{head} {}", digest.chars().rev().collect::<String>());
        internet.delegate("home.example", &[NAME_SERVER_OF_DOMAIN], &[&wrong])?;
        internet.expect_delv(TLSA, "TLSA", &["resolution failed"])?;
        forget()?;
        let message = Message::small("by a broken chain");
        sender.send(&network.sender, &message)?;
        expect_log(&sender, &network.sender, &["try again", "status=deferred"], DEADLINE)?;
        ensure!(sender.queued(&network.sender)? == 1, "the message left the queue");
        // Without a chain nobody demands anything, once the resolver tries again.
        internet.clock.advance(1)?;
        internet.delegate("home.example", &[NAME_SERVER_OF_DOMAIN], &[])?;
        internet.expect_delv(TLSA, "TLSA", &["; unsigned answer"])?;
        arrives(&message)?;
        deliver("unverified", "Untrusted")
    })
}

#[test]
fn days_pass_for_the_name_server_and_for_the_resolver() -> Result<()> {
    with_internet(&[], |network, internet, owner| {
        let mut domain = Domain::start(network, internet, owner, "3 1 1 00")?;
        internet.delegate("home.example", &[NAME_SERVER_OF_DOMAIN], &[&domain.ds.clone()])?;
        let validated = || network.sender.run("dig +tries=1 home.example MX");
        ensure!(validated()?.contains("flags: qr rd ra ad;"), "{}", validated()?);
        domain.primary.signal(owner, "TERM")?;
        domain.primary.wait(DEADLINE)?;

        // Signatures last for four weeks, and the zone for 30 days.
        internet.clock.advance(20)?;
        domain.nudge()?;
        ensure!(domain.asked()?.contains("NOERROR"), "{}", domain.asked()?);
        ensure!(validated()?.contains("flags: qr rd ra ad;"), "{}", validated()?);
        internet.clock.advance(9)?;
        domain.nudge()?;
        ensure!(domain.asked()?.contains("NOERROR"), "{}", domain.asked()?);
        wait_until("expired signatures", DEADLINE, || Ok(validated()?.contains("SERVFAIL")))?;
        internet.clock.advance(2)?;
        domain.nudge()?;
        wait_until("an expired zone", DEADLINE, || Ok(domain.asked()?.contains("SERVFAIL")))
    })
}

#[test]
fn pebble_looks_names_up_as_everybody_and_certifies() -> Result<()> {
    with_internet(&["certbot"], |network, internet, owner| {
        let domain = Domain::start(network, internet, owner, "3 1 1 00")?;
        let pebble = Pebble::start(network, internet, 90 * DAY)?;
        pebble.introduce(owner)?;
        let ask = format!(
            "REQUESTS_CA_BUNDLE={ca} certbot certonly --standalone -n --agree-tos --no-eff-email \
             -m anna@home.example --server {directory} -d {MX_NAME}",
            ca = pebble::CA_FILE,
            directory = pebble::DIRECTORY,
        );
        // Not registered: there is nobody by that name.
        owner.attempt(&ask)?.expect_words(1, &["could not resolve"])?;
        internet.delegate("home.example", &[NAME_SERVER_OF_DOMAIN], &[&domain.ds.clone()])?;
        internet.expect_delv(MX_NAME, "A", &["; fully validated"])?;
        owner.run(&ask)?;
        let made = owner.run("cat /etc/letsencrypt/live/mx.home.example/fullchain.pem")?;
        ensure!(made.contains("CERTIFICATE"), "{made}");
        Ok(())
    })
}
