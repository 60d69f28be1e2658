//! What a scenario starts from: the network, names, mail servers and Sealpost, all running.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::certificate::Certificate;
use crate::dns::Names;
use crate::exim::EximSender;
use crate::home::{self, HomeServer, PROXY_PORT};
use crate::log::Log;
use crate::machine::Machine;
use crate::mailbox;
use crate::message::Message;
use crate::network::{Network, RELAY_SHARED_V4, SENDER_V4};
use crate::packages::unpacked;
use crate::postfix::{PostfixAtHome, PostfixSender};
use crate::postgres::Postgres;
use crate::process::Process;
use crate::sealpost::{self, Kept, RelayFile, Service};
use crate::sender::{self, SendingServer, Tls};
use crate::smtp;

/// Lines of each log that a failure shows.
const TAIL: usize = 200;

/// The name of the mail server at home, in the zone and in its certificate.
pub const MX_NAME: &str = "mx.home.example";

/// The mail server that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Debian's Postfix.
    Postfix(Tls),
    /// Debian's Exim.
    Exim(Tls),
    /// None: the scenario itself plays the sender.
    Scenario,
}

/// The mail server at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Debian's Postfix with additional settings, usually none.
    Postfix(&'static str),
    /// The same with postscreen in front.
    Postscreen(&'static str),
    /// Debian's Exim.
    Exim,
    /// OpenSMTPD of Debian's backports.
    OpenSmtpd,
    /// None: the scenario itself plays it.
    Scenario,
}

impl At {
    fn server(self) -> Option<Box<dyn HomeServer>> {
        match self {
            At::Postfix(settings) => {
                Some(Box::new(PostfixAtHome { postscreen: false, settings: settings.into() }))
            }
            At::Postscreen(settings) => {
                Some(Box::new(PostfixAtHome { postscreen: true, settings: settings.into() }))
            }
            At::Exim => Some(Box::new(home::Exim)),
            At::OpenSmtpd => Some(Box::new(home::OpenSmtpd)),
            At::Scenario => None,
        }
    }
}

/// What differs between scenarios.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Who sends.
    pub from: From,
    /// The name of the mail exchanger in the zone. The relay knows `mx.home.example` only.
    pub mx_name: &'static str,
    /// Its address, which decides whether a name (SNI) is needed.
    pub mx: &'static str,
    /// Who receives.
    pub at: At,
    /// How the agent speaks to the one who receives.
    pub service: Service,
    /// Where the relay keeps its registry.
    pub kept: Kept,
    /// Further lines for the top of the relay's file.
    pub relay: &'static str,
    /// Whether the box has joined when the scenario begins, with a file and a proved domain.
    pub joined: bool,
    /// Whether the agent runs, and is connected, when the scenario begins.
    pub agent: bool,
}

impl Setup {
    /// A Postfix that verifies with DANE sends to a Postfix that wants a PROXY header, by way
    /// of an address that several boxes share.
    pub const STANDARD: Setup = Setup {
        from: From::Postfix(Tls::Dane),
        mx_name: MX_NAME,
        mx: RELAY_SHARED_V4,
        at: At::Postfix(""),
        service: Service { proxy: "v2", port: PROXY_PORT },
        kept: Kept::Sqlite,
        relay: "",
        joined: true,
        agent: true,
    };

    /// The same before anybody has joined: no file at home, no proof in the zone.
    pub const FRESH: Setup = Setup { joined: false, agent: false, ..Setup::STANDARD };
}

/// A running scenario. Fields are dropped in order: processes before their machines.
pub struct Scene {
    /// `sealpost-relay`.
    pub relay: Process,
    /// `sealpost-agent`, if it has been started.
    pub agent: Option<Process>,
    /// The home mail server's certificate.
    pub certificate: Certificate,
    /// The records of the world's zone, but for what proves that a box has its domain.
    pub zone: String,
    server: Option<Box<dyn SendingServer>>,
    home: Option<Box<dyn HomeServer>>,
    /// The world's names.
    pub names: Names,
    /// The relay's database server, where it has one.
    pub postgres: Option<Postgres>,
    /// The machines.
    pub network: Network,
}

/// Sets the scene, lets `play` happen in it, and shows the ends of all logs if it fails.
/// Without the rights of root the scenario is left out, and says so.
pub fn scenario(setup: Setup, play: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let mut scene = Scene::set(setup)?;
    let played = play(&mut scene);
    if played.is_ok() {
        // For `cargo test -- --show-output`.
        println!("{}", log_tails(&scene.network));
    }
    with_log_tails(&scene.network, || played)
}

/// Whether this process may make machines; says so on stderr if not.
pub fn allowed() -> Result<bool> {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        // Past the test runner's capture: nobody shall believe that this was tried.
        writeln!(std::io::stderr(), "SKIPPED {name}: network namespaces need root")?;
    }
    Ok(root)
}

/// Adds the last lines of every log of every machine to the failure of `work`.
pub fn with_log_tails<T>(network: &Network, work: impl FnOnce() -> Result<T>) -> Result<T> {
    work().map_err(|error| anyhow!("{error:#}\n{}", log_tails(network)))
}

impl Scene {
    fn set(setup: Setup) -> Result<Scene> {
        let programs = crate::programs::directory()?;
        let from = match setup.from {
            From::Postfix(_) => vec![unpacked("postfix")?],
            From::Exim(_) => vec![unpacked("exim")?],
            From::Scenario => vec![],
        };
        let at = setup.at.server().map(|server| unpacked(server.tree())).transpose()?;
        let network = Network::start(&programs, &unpacked("dns")?, &from, at.as_slice())?;
        Scene::people(network, setup)
    }

    fn people(network: Network, setup: Setup) -> Result<Scene> {
        let certificate = Certificate::for_name(MX_NAME)?;
        certificate.install(&network.home)?;
        // Where there is a TLSA record, Exim verifies and sends a name without being told to.
        let tlsa = match setup.from {
            From::Postfix(Tls::Dane) | From::Exim(Tls::Dane) => Some(certificate.tlsa()),
            _ => None,
        };
        let zone = records(setup.mx_name, setup.mx, tlsa);
        let mut proof = String::new();
        if setup.joined {
            sealpost::configure_agent(&network.home, setup.service)?;
            proof = sealpost::proof(&network.home, "home.example")?;
        }
        let names = Names::start(&network, &format!("{zone}{proof}"))?;
        let home = setup.at.server();
        if let Some(home) = &home {
            with_log_tails(&network, || home.start(&network.home, home.snippet()))?;
        }
        let postgres = match setup.kept {
            Kept::Sqlite => None,
            Kept::Postgres => Some(Postgres::start_in(&network.relay, &[RELAY_SHARED_V4])?),
        };
        let url = postgres.as_ref().map(|server| server.create_database("registry")).transpose()?;
        let more = setup.relay;
        let file = RelayFile { registry: url.as_deref(), more, ..RelayFile::FIRST };
        sealpost::configure_relay(&network.relay, file)?;
        let relay = with_log_tails(&network, || {
            let relay = sealpost::start_relay(&network.relay)?;
            if setup.joined {
                sealpost::register(&network.relay, &network.home)?;
            }
            Ok(relay)
        })?;
        let server: Option<Box<dyn SendingServer>> = match setup.from {
            From::Postfix(tls) => Some(Box::new(PostfixSender::start(&network.sender, tls)?)),
            From::Exim(tls) => Some(Box::new(EximSender::start(&network.sender, tls)?)),
            From::Scenario => None,
        };
        let mut scene =
            Scene { relay, agent: None, certificate, zone, server, home, names, postgres, network };
        if setup.agent {
            let connected = scene.start_agent(1);
            with_log_tails(&scene.network, || connected)?;
        }
        Ok(scene)
    }

    /// Starts the agent and waits until it is connected, for the `count`th time in this
    /// scenario.
    pub fn start_agent(&mut self, count: usize) -> Result<()> {
        self.agent = Some(sealpost::start_agent(&self.network.home)?);
        sealpost::expect_tunnel(&self.network.home, count)?;
        // The relay's side of the handshake ends a moment later.
        sealpost::relay_log(&self.network.relay)
            .expect_nth(count, "box connected", &[], Duration::from_secs(10))
            .map(drop)
    }

    /// A connection from the sender's machine to the address `mx` of the relay.
    pub fn connect(&self, mx: &str) -> Result<TcpStream> {
        smtp::connect(&self.network.sender, mx, 25)
    }

    /// The relay's log.
    pub fn relay_log(&self) -> Log<'_> {
        sealpost::relay_log(&self.network.relay)
    }

    /// The agent's log.
    pub fn agent_log(&self) -> Log<'_> {
        sealpost::agent_log(&self.network.home)
    }

    /// The sending mail server.
    pub fn server(&self) -> Result<&dyn SendingServer> {
        self.server.as_deref().context("no mail server sends here")
    }

    /// The mail server at home.
    pub fn home(&self) -> Result<&dyn HomeServer> {
        self.home.as_deref().context("no mail server is at home here")
    }

    /// Gives a message to the sending mail server.
    pub fn send(&self, message: &Message) -> Result<()> {
        self.server()?.send(&self.network.sender, message)
    }

    /// Makes the sending mail server try its queue again.
    pub fn flush(&self) -> Result<()> {
        self.server()?.flush(&self.network.sender)
    }

    /// Waits for a line in the sending mail server's log.
    pub fn expect_sender_log(&self, parts: &[&str]) -> Result<String> {
        let deadline = Duration::from_secs(30);
        sender::expect_log(self.server()?, &self.network.sender, parts, deadline)
    }

    /// See [`sender::expect_deferred`].
    pub fn expect_deferred(&self) -> Result<String> {
        sender::expect_deferred(self.server()?, &self.network.sender)
    }

    /// Waits until the message is in the mailbox, once and unchanged, and the sender's queue is
    /// empty, so that nothing is left that could come again.
    pub fn expect_delivered(&self, message: &Message) -> Result<()> {
        let deadline = Duration::from_secs(60);
        mailbox::expect_delivered(&self.network.home, message, deadline)?;
        sender::expect_empty_queue(self.server()?, &self.network.sender)?;
        mailbox::expect_one_copy(&self.network.home, message)
    }
}

fn log_tails(network: &Network) -> String {
    let script = format!("tail -n {TAIL} /var/log/*.log /var/log/exim4/*log 2>/dev/null || true");
    network
        .machines()
        .into_iter()
        .map(|machine: &Machine| {
            let logs = machine.run(&script).unwrap_or_else(|error| format!("{error:#}"));
            format!("──── {} ────\n{logs}", machine.name())
        })
        .collect()
}

/// The zone of a box, served to the senders. `mx` is an address of the relay.
pub fn records(mx_name: &str, mx: &str, tlsa: Option<&str>) -> String {
    let kind = if mx.contains(':') { "AAAA" } else { "A" };
    let tlsa = tlsa.map_or(String::new(), |data| format!("_25._tcp.{mx_name}. IN TLSA {data}\n"));
    format!(
        "home.example. IN MX 10 {mx_name}.\n{mx_name}. IN {kind} {mx}\n{tlsa}\
         mail.sender.example. IN A {SENDER_V4}\n"
    )
}
