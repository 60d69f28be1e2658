//! SIGHUP reloads, SIGTERM or SIGINT drains, a second one leaves at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the configuration again.
    Reload,
    /// Take nothing new, finish what is open, leave. Asked again: leave at once.
    Stop,
}

/// The signals that a daemon listens to.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals no longer have their default effect.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next request.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
        }
    }

    /// The next request to stop; others are passed over.
    pub async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}

/// Tells systemd that the service runs, reloads or stops; nothing without systemd.
pub mod systemd {
    use sd_notify::NotifyState;

    fn tell(states: &[NotifyState]) {
        // Fails only when the socket that systemd named is gone, and then nobody listens.
        let _ = sd_notify::notify(false, states);
    }

    /// All listeners are bound.
    pub fn ready() {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again.
    pub fn reloading() {
        tell(&[NotifyState::Reloading]);
    }

    /// The process drains.
    pub fn stopping() {
        tell(&[NotifyState::Stopping]);
    }
}
