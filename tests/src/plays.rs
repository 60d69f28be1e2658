//! What several scenarios do in a running [`Scene`].

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::dns::ANCHOR;
use crate::machine::Machine;
use crate::mailbox::{expect_delivered, expect_delivered_while, expect_one_copy};
use crate::message::Message;
use crate::network::{FURTHER_BOX, FURTHER_RELAY};
use crate::packages::unpacked;
use crate::postfix;
use crate::process::Process;
use crate::scene::{MX_NAME, Scene, with_log_tails};
use crate::sealpost::{self, RelayFile};
use crate::sender::expect_empty_queue;
use crate::smtp::{self, deliver, up_to_tls};
use crate::tls_client::TlsClient;
use crate::wait::wait_until;

impl Scene {
    /// Adds a machine with a second relay, which runs when this returns.
    pub fn add_relay(&mut self, file: RelayFile<'_>) -> Result<(Arc<Machine>, Process)> {
        let machine = self.network.add(FURTHER_RELAY, &[])?;
        machine.write(ANCHOR, &self.network.relay.read(ANCHOR))?;
        sealpost::configure_relay(&machine, file)?;
        let relay = with_log_tails(&self.network, || sealpost::start_relay(&machine))?;
        Ok((machine, relay))
    }

    /// Adds a machine with the mail server for `home.example` and nothing of Sealpost's.
    pub fn add_box(&mut self) -> Result<Arc<Machine>> {
        let machine = self.network.add(FURTHER_BOX, &[unpacked("postfix")?])?;
        self.certificate.install(&machine)?;
        postfix::start_at_home(&machine)?;
        Ok(machine)
    }

    /// Publishes [`Scene::zone`] and `more`, such as a proof, in place of what was published before.
    pub fn publish(&mut self, more: &str) -> Result<()> {
        self.names.replace(&self.network, &format!("{}{more}", self.zone))
    }

    /// Makes the agent read its file again.
    pub fn reload_agent(&mut self) -> Result<()> {
        self.agent.as_mut().context("the agent")?.signal(&self.network.home, "HUP")
    }

    /// Ends the agent.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent")?;
        agent.signal(&self.network.home, "TERM")?;
        agent.wait(Duration::from_secs(20)).map(drop)
    }

    /// Has a message sent, and demands that it arrives.
    pub fn deliver(&self, subject: &str) -> Result<()> {
        let message = Message::small(subject);
        self.send(&message)?;
        self.expect_delivered(&message)
    }

    /// Stops the mail server at home and lets the scenario take its place.
    pub fn replace_home_server(&self) -> Result<TcpListener> {
        // Or the agent would test us.
        if self.agent.is_some() {
            sealpost::expect_self_test(&self.network.home, "passed")?;
        }
        postfix::stop(&self.network.home)?;
        smtp::listen(&self.network.home, "127.0.0.1", postfix::PROXY_PORT)
    }

    /// Sends a big message slowly, and returns when a part of it, not all, is on the disk of
    /// the mail server at home.
    pub fn send_until_midway(&self, size: usize) -> Result<Message> {
        self.network.slow_down_sender("24mbit")?;
        let message = Message::of_size("interrupted", size);
        self.send(&message)?;
        let some = size as u64 / 8;
        wait_until("a part of the message at home", Duration::from_secs(20), || {
            Ok(postfix::bytes_coming_in(&self.network.home) > some)
        })?;
        let part = postfix::bytes_coming_in(&self.network.home);
        ensure!(part < size as u64, "all of the message is at home already");
        Ok(message)
    }

    /// Plays the sender of a message at the address `mx` of a relay, and demands that it arrives.
    pub fn deliver_by(&self, mx: &str) -> Result<()> {
        let message = Message::small(mx);
        let mut stream = self.connect(mx)?;
        up_to_tls(&mut stream)?;
        let client = TlsClient::new(MX_NAME, &self.certificate)?;
        stream.write_all(client.hello())?;
        deliver(&mut client.finish(stream)?, &message)?;
        expect_delivered(&self.network.home, &message, Duration::from_secs(20))
    }

    /// Lets the sender try until the message is in the mailbox on `home`, and demands that it is
    /// there once when the sender has nothing left.
    pub fn arrives_after_retries(&self, home: &Machine, message: &Message) -> Result<()> {
        let mut attempts = 0;
        expect_delivered_while(home, message, Duration::from_secs(90), || {
            // Looked at fifty times a second; a sender's queue is nudged every second.
            attempts += 1;
            if attempts % 50 == 1 {
                self.flush()?;
            }
            Ok(())
        })?;
        expect_empty_queue(self.server()?, &self.network.sender)?;
        expect_one_copy(home, message)?;
        let log = self.server()?.log(&self.network.sender);
        ensure!(!log.contains(self.server()?.bounce()), "it bounced");
        Ok(())
    }

    /// Demands that the sender never had to put a message off.
    pub fn expect_first_attempt(&self) -> Result<()> {
        let log = self.server()?.log(&self.network.sender);
        ensure!(!log.contains(self.server()?.deferral()), "it took a second attempt");
        Ok(())
    }
}
