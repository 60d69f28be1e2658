//! The processes, taps and files of one run.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::arguments::Proxy;
use crate::child::{self, Child};
use crate::configs;
use crate::journal::Journal;
use crate::roles::Role;
use crate::sink;
use crate::tap::{TcpTap, UdpTap};

/// How long a program may take to come up.
pub(crate) const START: Duration = Duration::from_secs(30);

/// How long a closing line may take after the sender is done.
pub(crate) const CLOSING: Duration = Duration::from_secs(10);

/// The home's mail domain.
pub(crate) const DOMAIN: &str = "home.example";

/// What the relay's operator calls the box. Its name at the relay is this under [`DOMAIN`].
const BOX: &str = "mx";

/// The name in the domain's MX record: what senders ask for in the ClientHello.
pub(crate) const MX: &str = "mx.home.example";

/// Everything that has to be taken down again.
#[derive(Debug)]
pub(crate) struct Stage {
    directory: TempDir,
    journal: Arc<Journal>,
    tunnel_tap: UdpTap,
    smtp_tap: Option<TcpTap>,
    sink: Option<Child>,
    relay: Option<Child>,
    agent: Option<Child>,
    closed_port: Option<TcpSocket>,
}

impl Stage {
    /// An empty stage.
    pub(crate) async fn new(journal: Arc<Journal>) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("sealpost-demo-").tempdir().context(
            "making a directory for throwaway state (is the temporary directory writable?)",
        )?;
        Ok(Self {
            directory,
            journal,
            tunnel_tap: UdpTap::bind().await.context("taking a free UDP port on 127.0.0.1")?,
            smtp_tap: None,
            sink: None,
            relay: None,
            agent: None,
            closed_port: None,
        })
    }

    /// Starts the mail server at home and returns its address.
    pub(crate) async fn start_sink(&mut self, starttls: bool) -> anyhow::Result<SocketAddr> {
        let mut arguments = vec!["--state".into(), self.directory.path().as_os_str().to_owned()];
        arguments.extend(["--domain", DOMAIN, "--name", MX].map(Into::into));
        if !starttls {
            arguments.push("--no-starttls".into());
        }
        let sink = self.sink.insert(Child::start(Role::Sink, &arguments, &self.journal)?);
        sink.listening("smtp", START).await
    }

    /// The address of a port where surely nobody listens: it is bound, so nobody else gets it, but
    /// it never listens.
    pub(crate) fn closed_port(&mut self) -> anyhow::Result<SocketAddr> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = socket.local_addr()?;
        self.closed_port = Some(socket);
        Ok(address)
    }

    /// Starts the relay with the tap before it, invites the box and lets it join.
    pub(crate) async fn start_relay(
        &mut self,
        mail_server: SocketAddr,
        proxy: Proxy,
        wrong_pin: bool,
    ) -> anyhow::Result<()> {
        let relay_file = self.relay_file("relay")?;
        let arguments = ["run".into(), "--config".into(), relay_file.clone()];
        let relay = self.relay.insert(Child::start(Role::Relay, &arguments, &self.journal)?);
        let smtp = relay.listening("smtp", START).await?;
        let tunnel = relay.listening("tunnel", START).await?;
        self.tunnel_tap.start(tunnel);
        self.smtp_tap = Some(TcpTap::start(smtp).await?);

        let arguments: [OsString; 4] = ["invite".into(), BOX.into(), "--config".into(), relay_file];
        let invite = child::ask(Role::Relay, &arguments).await?;
        let agent_file = self.path("agent.toml");
        let agent = configs::Agent::new(self.path("agent"), mail_server, proxy);
        configs::write(&agent_file, &agent)?;
        let config = agent_file.clone().into_os_string();
        let join = ["join", &invite, "--yes", "--name", "r1", "--config"].map(OsString::from);
        child::ask(Role::Agent, &[&join[..], &[config]].concat()).await?;
        let mut pin = None;
        if wrong_pin {
            // A real key, only another relay's.
            let other = self.relay_file("other-relay")?;
            let arguments = ["key".into(), "--config".into(), other];
            pin = Some(child::ask(Role::Relay, &arguments).await?);
        }
        configs::adjust_relay(&agent_file, pin.as_deref())
    }

    /// Starts the agent. `start_relay` has written its file.
    pub(crate) fn start_agent(&mut self) -> anyhow::Result<&Child> {
        let file = self.path("agent.toml").into_os_string();
        let arguments = ["run".into(), "--config".into(), file];
        Ok(self.agent.insert(Child::start(Role::Agent, &arguments, &self.journal)?))
    }

    /// The running relay.
    pub(crate) fn relay(&self) -> anyhow::Result<&Child> {
        self.relay.as_ref().context("the relay is not running")
    }

    /// The mail server at home, unless it is a real one.
    pub(crate) fn sink(&self) -> Option<&Child> {
        self.sink.as_ref()
    }

    /// The agent, when it was started.
    pub(crate) fn agent(&self) -> Option<&Child> {
        self.agent.as_ref()
    }

    /// The tap before the relay's SMTP port: where a sender connects to.
    pub(crate) fn smtp_tap(&self) -> anyhow::Result<&TcpTap> {
        self.smtp_tap.as_ref().context("the relay is not running")
    }

    /// The tap in the tunnel.
    pub(crate) fn tunnel_tap(&self) -> &UdpTap {
        &self.tunnel_tap
    }

    /// The sink's certificate.
    pub(crate) fn certificate(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.path(sink::CERTIFICATE);
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The sink's Maildir.
    pub(crate) fn maildir(&self) -> PathBuf {
        self.path(sink::MAILDIR)
    }

    /// The messages in the sink's Maildir.
    pub(crate) fn delivered(&self) -> anyhow::Result<Vec<PathBuf>> {
        match std::fs::read_dir(self.maildir().join("new")) {
            Ok(entries) => {
                Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends all children in the order of a good shutdown: nobody loses a peer that it still needs.
    pub(crate) async fn strike(mut self) {
        for child in [self.agent.take(), self.relay.take(), self.sink.take()].into_iter().flatten()
        {
            child.stop().await;
        }
    }

    /// Writes the configuration of a relay; its path.
    fn relay_file(&self, name: &str) -> anyhow::Result<OsString> {
        let relay = configs::Relay::new(self.path(name), self.tunnel_tap.address(), DOMAIN);
        let file = self.path(&format!("{name}.toml"));
        configs::write(&file, &relay)?;
        Ok(file.into_os_string())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
