//! Everything that the lab is made of, running: one box at one relay, and all senders.

use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sealpost_tests::certificate::{Authority, Certificate, KEY_FILE};
use sealpost_tests::dns::Names;
use sealpost_tests::machine::Machine;
use sealpost_tests::network::{Network, PAIRS, RELAY_FIRST_V4, RELAY_SECOND_V4, RELAY_SHARED_V6};
use sealpost_tests::packages::unpacked;
use sealpost_tests::postfix::{self, PROXY_PORT};
use sealpost_tests::process::Process;
use sealpost_tests::sealpost::{self, RELAY_FILE, RelayFile, Service};

use crate::arrivals::Mailbox;
use crate::kinds::{Kind, Pace, Sender};
use crate::names;
use crate::wire::Wire;

/// The home mail server: it has mail for all domains of the lab.
const HOME: &str = "recipient_delimiter = +\nsmtpd_tls_received_header = yes\n";

/// The box's own prefix, of which it has one address.
const OWN_PREFIX: &str = "2001:db8:7::/64";

/// Where bounces go, and a mail server without TLS beside it.
const AUTHORS: [&str; 2] = ["198.51.100.34", "198.51.100.35"];

/// See the module's text. Fields are dropped in order: processes before their machines.
pub(crate) struct Lab {
    pub(crate) relay: Process,
    pub(crate) agent: Option<Process>,
    pub(crate) senders: Vec<Sender>,
    /// A connection that takes the only place there is.
    pub(crate) hog: Option<TcpStream>,
    pub(crate) wire: Wire,
    /// The mailbox of the recipient at home.
    pub(crate) home: Mailbox,
    /// The mailbox of the author, to which bounces go.
    pub(crate) author: Mailbox,
    pub(crate) certificate: Certificate,
    relay_file: String,
    settings: String,
    _names: Names,
    _authors: Arc<Machine>,
    pub(crate) network: Network,
}

impl Lab {
    /// Sets it up.
    pub(crate) fn open(kinds: &[Kind], pace: Pace) -> Result<Lab> {
        let programs = sealpost_tests::programs::directory()?;
        let postfix = [unpacked("postfix")?];
        let mut network = Network::start(&programs, &unpacked("dns")?, &[], &postfix)?;
        let wire = Wire::tap(&network.internet)?;
        let authority = Authority::new()?;
        let certificate = authority.certify(&names::exchangers())?;
        certificate.install(&network.home)?;
        sealpost::configure_agent(&network.home, Service { proxy: "v2", port: PROXY_PORT })?;
        let proofs = sealpost::proof(&network.home, "home.example")?
            + &sealpost::proof(&network.home, names::DOMAIN)?;
        let mut dns = Names::start(&network, &proofs)?;

        let settings = format!("mydestination = home.example, {}\n{HOME}", names::all().join(", "));
        postfix::start_at_home_with(&network.home, &settings)?;
        network.relay.run(&format!(
            "ip -6 route add local {OWN_PREFIX} dev lo
             ip address add {}/24 dev eth0",
            names::NOBODYS_V4
        ))?;
        network.internet.run(&format!("ip -6 route add {OWN_PREFIX} via {RELAY_SHARED_V6}"))?;
        let more = format!("own_prefix = \"{OWN_PREFIX}\"\n{PAIRS}");
        sealpost::configure_relay(&network.relay, RelayFile { more: &more, ..RelayFile::FIRST })?;
        let relay_file = network.relay.read(RELAY_FILE);
        let relay = sealpost::start_relay(&network.relay)?;
        sealpost::register(&network.relay, &network.home)?;
        let claimed = names::claimed();
        let claim = format!("domain add {} --mx {}", names::DOMAIN, claimed.join(" --mx "));
        sealpost::agent_does(&network.home, &claim)?;
        let agent = sealpost::start_agent(&network.home)?;
        sealpost::expect_ready(&network.home)?;
        let pairs = pairs(&network)?;

        let records = names::records(certificate.tlsa(), &pairs, AUTHORS);
        dns.replace(&network, &format!("{records}{proofs}"))?;
        let authors = network.add_at(
            "authors",
            &["198.51.100.33/29"],
            &AUTHORS.map(|address| format!("{address}/29")).each_ref().map(String::as_str),
            &postfix,
        )?;
        authority.certify(&["sink.sender.example".to_owned()])?.install(&authors)?;
        take_bounces(&authors)?;

        let home = Mailbox::of(&network.home, "anna");
        let author = Mailbox::of(&authors, "bob");
        let senders = senders(&mut network, kinds, &authority, pace)?;
        Ok(Lab {
            relay,
            agent: Some(agent),
            senders,
            hog: None,
            wire,
            home,
            author,
            certificate,
            relay_file,
            settings,
            _names: dns,
            _authors: authors,
            network,
        })
    }

    /// Makes the relay read its file with these lines added.
    pub(crate) fn reload_relay(&mut self, more: &str) -> Result<()> {
        let count = self.reloads();
        self.network.relay.write(RELAY_FILE, &format!("{}{more}", self.relay_file))?;
        self.relay.signal(&self.network.relay, "HUP")?;
        sealpost_tests::wait::wait_until("the relay to reload", Duration::from_secs(10), || {
            Ok(self.reloads() > count)
        })
    }

    fn reloads(&self) -> usize {
        let events = sealpost::relay_log(&self.network.relay).events();
        let reloaded = |event: &&serde_json::Value| {
            event["message"].as_str().is_some_and(|message| message == "reloaded")
        };
        events.iter().filter(reloaded).count()
    }

    /// Starts the home mail server anew, with settings that replace others.
    pub(crate) fn restart_home(&self, more: &str) -> Result<()> {
        postfix::stop(&self.network.home)?;
        self.start_home(more)
    }

    /// Starts it when it has been stopped.
    pub(crate) fn start_home(&self, more: &str) -> Result<()> {
        postfix::start_at_home_with(&self.network.home, &format!("{}{more}", self.settings))
    }

    /// Ends the agent, by `signal`.
    pub(crate) fn end_agent(&mut self, signal: &str) -> Result<()> {
        let mut agent = self.agent.take().context("the agent")?;
        agent.signal(&self.network.home, signal)?;
        agent.wait(Duration::from_secs(20)).map(drop)
    }

    /// Starts the agent again.
    pub(crate) fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(sealpost::start_agent(&self.network.home)?);
        Ok(())
    }

    /// Makes the home mail server's key useless, or good again.
    pub(crate) fn break_key(&self, broken: bool) -> Result<()> {
        if broken {
            // In parts, so that nobody who looks for lost keys stops here.
            let useless = format!("-----BEGIN {} KEY-----\nAAAA\n", "PRIVATE");
            self.network.home.write(KEY_FILE, &useless)
        } else {
            self.certificate.install(&self.network.home)
        }
    }

    /// The ends of all logs, for a failure.
    pub(crate) fn tails(&self) -> String {
        let tail = "tail -n 60 /var/log/*.log /var/log/exim4/*log 2>/dev/null || true";
        let senders = self.senders.iter().map(|sender| sender.machine.as_ref());
        let bounces = self.author.with("").into_iter().map(|mail| mail.text.clone());
        let bounces: String = bounces.filter(|text| !text.contains("control.")).collect();
        [&self.network.relay, &self.network.home]
            .into_iter()
            .chain(senders)
            .map(|machine| {
                let logs = machine.run(tail).unwrap_or_default();
                format!("──── {} ────\n{logs}", machine.name())
            })
            .collect::<String>()
            + &format!("──── the author's mailbox ────\n{bounces}")
    }
}

/// The box's pair of addresses at the relay, and a pair that is no box's.
fn pairs(network: &Network) -> Result<names::Pairs> {
    let shown = sealpost::relay_says(&network.relay, "boxes show home")?;
    let text = |name: &str| {
        let address = shown["pairs"][0][name].as_str().map(str::to_owned);
        address.with_context(|| shown.to_string())
    };
    let ours = [text("first")?, text("second")?];
    let other = |of: [&str; 2], one: &str| {
        let found = of.into_iter().find(|it| *it != one);
        found.map(str::to_owned).context("another address")
    };
    let nobodys = [other(RELAY_FIRST_V4, &ours[0])?, other(RELAY_SECOND_V4, &ours[1])?];
    Ok(names::Pairs { ours, nobodys })
}

/// Starts the mail server of the author, which refuses all other recipients.
fn take_bounces(machine: &Machine) -> Result<()> {
    machine.run(
        "echo bob:x:1500:1500::/home/bob:/bin/sh >> /etc/passwd
         mkdir -p /home/bob
         chown 1500:1500 /home/bob",
    )?;
    let settings = format!(
        "myhostname = sink.sender.example\nmydestination = sender.example, refused.example, \
         plain.example\nmynetworks =\nhome_mailbox = Maildir/\nrecipient_delimiter = +\n\
         smtpd_peername_lookup = no\nsmtpd_tls_key_file = {KEY_FILE}\n\
         smtpd_tls_cert_file = {}\nlocal_recipient_maps = inline:{{bob=1}}\n",
        sealpost_tests::certificate::CERTIFICATE_FILE
    );
    let [sealed, plain] = AUTHORS;
    let ports = format!(
        "{sealed}:25 inet n - n - - smtpd -o smtpd_tls_security_level=may\n\
         {plain}:25 inet n - n - - smtpd -o smtpd_tls_security_level=none\n"
    );
    postfix::start(machine, &settings, &ports)
}

fn senders(
    network: &mut Network,
    kinds: &[Kind],
    authority: &Authority,
    pace: Pace,
) -> Result<Vec<Sender>> {
    let mut machines = Vec::new();
    for (number, kind) in (0..).zip(kinds) {
        machines.push((number, *kind, Sender::plug(network, *kind, number)?));
    }
    let network = &*network;
    thread::scope(|scope| {
        let starting: Vec<_> = machines
            .into_iter()
            .map(|(number, kind, machine)| {
                let start = move || {
                    Sender::start(network, kind, number, machine, authority, pace)
                        .with_context(|| format!("start {}", kind.title()))
                };
                scope.spawn(start)
            })
            .collect();
        let joined = starting.into_iter().map(|one| one.join().map_err(|_| anyhow!("a panic"))?);
        joined.collect()
    })
}
