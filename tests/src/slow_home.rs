//! A Postfix at home that takes its time over a message: it asks a policy server whether to take
//! it when all of it has come, and answers the sender when that has answered. The scenario plays
//! the policy server.

use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::message::Message;
use crate::scene::Scene;
use crate::smtp;

/// What makes Postfix ask, and wait for longer than any sender does. Without CHUNKING, as Exim waits
/// 10 minutes for the answer to DATA's final dot (`final_timeout`), but only 5 for the one to BDAT's
/// last chunk (`command_timeout`).
pub const SETTINGS: &str = "\
smtpd_discard_ehlo_keywords = chunking
smtpd_end_of_data_restrictions = check_policy_service inet:127.0.0.1:10031
smtpd_policy_service_timeout = 1000s
smtpd_policy_service_try_limit = 1";

const PORT: u16 = 10031;

/// The policy server.
#[derive(Debug)]
pub struct Policy(TcpListener);

/// A question that waits for its answer, and with it a sender for the reply to its final dot.
#[derive(Debug)]
pub struct Question {
    connection: TcpStream,
    asked: Instant,
}

impl Policy {
    /// Starts it, before there is mail.
    pub fn at_home(scene: &Scene) -> Result<Policy> {
        smtp::listen(&scene.network.home, "127.0.0.1", PORT).map(Policy)
    }

    /// Waits until Postfix has all of a message, and asks.
    pub fn asked(&self) -> Result<Question> {
        let mut connection = smtp::accept(&self.0)?;
        while !smtp::line(&mut connection)?.trim_end().is_empty() {}
        Ok(Question { connection, asked: Instant::now() })
    }

    /// Demands that nothing was asked since, which a second attempt would have.
    fn expect_no_more(&self) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let next = self.0.accept().map(drop).map_err(|error| error.kind());
        ensure!(next == Err(ErrorKind::WouldBlock), "Postfix was given the message again");
        Ok(())
    }
}

impl Question {
    /// Says nothing until `silence` is over, and demands that the sender waits all that time in one
    /// session.
    pub fn stay_silent(&self, scene: &Scene, silence: Duration) -> Result<()> {
        while self.asked.elapsed() < silence {
            sleep(Duration::from_secs(1));
            let ended = scene.relay_log().matching("session", &[]);
            let waited = self.asked.elapsed();
            ensure!(ended.is_empty(), "cut after {waited:?} of silence: {}", ended[0]);
        }
        Ok(())
    }

    /// Lets Postfix take the message.
    pub fn answer(mut self) -> Result<()> {
        self.connection.write_all(b"action=dunno\n\n").context("answer Postfix")
    }
}

impl Scene {
    /// Demands that `message` came once, in the one session that there was, at the first attempt.
    pub fn expect_one_attempt(&self, policy: &Policy, message: &Message) -> Result<()> {
        self.expect_delivered(message)?;
        self.expect_first_attempt()?;
        policy.expect_no_more()?;
        let end = self.relay_log().expect_transfer()?;
        println!("{end}\n{}", self.agent_log().expect_transfer()?);
        for log in [self.relay_log(), self.agent_log()] {
            let sessions = log.matching("session", &[]).len();
            ensure!(sessions == 1, "{sessions} sessions");
        }
        let tunnels = self.agent_log().matching("tunnel up", &[]).len();
        ensure!(tunnels == 1, "the agent had to connect {tunnels} times");
        Ok(())
    }
}
