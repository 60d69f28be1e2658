//! What a session meets at a box that the shield stands before.
//!
//! At an address of the box's own that is before the greeting, where a whole 421 can be said. At a
//! shared address nobody knows before the ClientHello whom it is for: there is no pause, as it would
//! be one for the boxes that did not ask for it, and a refusal is an alert.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sealpost_tunnel::PublicKey;
use sealpost_tunnel::control::SHIELDED;
use tokio::net::TcpStream;
use tokio::time::sleep_until;

use super::alert::Alert;
use super::greet::DRAINING;
use super::limits::prefix_of;
use super::outcome::Outcome;
use super::refusal::Refusal;
use super::session::{Session, sender_left};
use crate::shield::List;

/// Why a sender is not let in.
enum Objection {
    /// It spoke before it was greeted.
    Spoke,
    /// It is on this list.
    Listed(List),
    /// Too many connections of its network.
    PrefixRate,
    /// Too many connections for the box.
    BoxRate,
    /// It went by itself.
    Left,
}

impl Session {
    /// Before the greeting, where the address that the sender came to says for which box it is.
    pub(super) async fn meet_shield_of_address(&mut self, tcp: &TcpStream) -> Result<(), Refusal> {
        let Some(home) = self.owner(self.open.local.ip()) else { return Ok(()) };
        if !self.is_shielded(home) {
            return Ok(());
        }
        let pause = self.settings.shield.greet_pause;
        let draining = self.ingress.draining.clone();
        tokio::select! {
            met = self.meet(tcp, home, pause) => met.map_err(Objection::before_the_greeting),
            () = draining.cancelled() => Err(Refusal::reply(DRAINING, Outcome::Draining)),
        }
    }

    /// Behind the ClientHello, where only that says so.
    pub(super) async fn meet_shield_of_name(
        &mut self,
        tcp: &TcpStream,
        home: PublicKey,
    ) -> Result<(), Refusal> {
        if self.owner(self.open.local.ip()).is_some() || !self.is_shielded(home) {
            return Ok(());
        }
        self.meet(tcp, home, Duration::ZERO).await.map_err(Objection::behind_the_hello)
    }

    fn owner(&self, local: IpAddr) -> Option<PublicKey> {
        self.ingress.registry.snapshot().by_address(local).map(|owner| owner.key)
    }

    /// Whether the owner of the box wants it, which is not known while the box is away.
    fn is_shielded(&self, home: PublicKey) -> bool {
        self.ingress.boxes.place(home).capabilities() & SHIELDED != 0
    }

    /// The rate of the box comes last: what was refused for another reason takes nothing of it.
    async fn meet(
        &self,
        tcp: &TcpStream,
        home: PublicKey,
        pause: Duration,
    ) -> Result<(), Objection> {
        let (shield, settings) = (&self.ingress.shield, &self.settings.shield);
        let (client, now) = (self.open.client.ip(), Instant::now());
        if !shield.admits_prefix(prefix_of(client), home, settings.prefix_rate, now) {
            return Err(Objection::PrefixRate);
        }
        let listing = async {
            let listed = shield.listing(client).await;
            if listed.is_none() {
                // The lists are asked while the sender waits anyway.
                sleep_until((now + pause).into()).await;
            }
            listed
        };
        tokio::select! {
            biased;
            objection = spoils(tcp, !pause.is_zero()) => return Err(objection),
            listed = listing => if let Some(list) = listed {
                return Err(Objection::Listed(list));
            },
        }
        if !shield.admits_box(home, settings.box_rate, Instant::now()) {
            return Err(Objection::BoxRate);
        }
        Ok(())
    }
}

impl Objection {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Spoke => Outcome::Pregreet,
            Self::Listed(_) => Outcome::Listed,
            Self::PrefixRate => Outcome::RatePrefix,
            Self::BoxRate => Outcome::RateBox,
            Self::Left => Outcome::Disconnected,
        }
    }

    fn before_the_greeting(self) -> Refusal {
        let outcome = self.outcome();
        match self {
            Self::Spoke => {
                Refusal::reply("421 4.5.1 Wait for the greeting, try again\r\n", outcome)
            }
            Self::Listed(list) => {
                let reply = format!("421 4.7.0 Your address is on a list of {list}\r\n");
                Refusal::reply(reply, outcome)
            }
            Self::PrefixRate => {
                let reply = "421 4.7.0 Too many connections from your network, try again later\r\n";
                Refusal::reply(reply, outcome)
            }
            Self::BoxRate => {
                Refusal::reply("421 4.7.0 Too many connections, try again later\r\n", outcome)
            }
            Self::Left => Refusal::nothing(outcome),
        }
    }

    fn behind_the_hello(self) -> Refusal {
        let outcome = self.outcome();
        match self {
            Self::Left => Refusal::nothing(outcome),
            _ => Refusal::alert(Alert::InternalError, outcome),
        }
    }
}

/// Resolves when the sender has ended the connection, or has spoken where it must be silent.
async fn spoils(tcp: &TcpStream, silent: bool) -> Objection {
    if silent && matches!(tcp.peek(&mut [0]).await, Ok(1..)) {
        return Objection::Spoke;
    }
    sender_left(tcp).await;
    Objection::Left
}
