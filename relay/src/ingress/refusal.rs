//! How a session ends that got no stream: the last words to the sender, in the form that it
//! understands at that point.

use std::borrow::Cow;
use std::time::Duration;

use sealpost_tunnel::splice::discard;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::alert::Alert;
use super::outcome::Outcome;

/// Said by a relay that has no room (RFC 5321 section 3.8): as the greeting, or later.
pub(super) const BUSY: &str = "421 4.3.2 Too busy, try again later\r\n";

/// How long a refused peer may take to see the refusal before the connection is dropped.
const GOODBYE: Duration = Duration::from_secs(2);

/// How a session ends that got no stream: what the sender is told, and why.
pub(super) struct Refusal {
    say: Say,
    pub(super) outcome: Outcome,
}

enum Say {
    Nothing,
    Reply(Cow<'static, str>),
    Alert(Alert),
}

impl Refusal {
    /// Nobody is there to be told.
    pub(super) fn nothing(outcome: Outcome) -> Self {
        Self { say: Say::Nothing, outcome }
    }

    /// A reply of SMTP.
    pub(super) fn reply(reply: impl Into<Cow<'static, str>>, outcome: Outcome) -> Self {
        Self { say: Say::Reply(reply.into()), outcome }
    }

    /// An alert of TLS.
    pub(super) fn alert(alert: Alert, outcome: Outcome) -> Self {
        Self { say: Say::Alert(alert), outcome }
    }

    /// Tells the sender what can be told without waiting. The connection is then to be dropped.
    pub(super) fn leave(self, tcp: &TcpStream) {
        let _ = match self.say {
            Say::Nothing => Ok(0),
            Say::Reply(reply) => tcp.try_write(reply.as_bytes()),
            Say::Alert(alert) => tcp.try_write(&alert.record()),
        };
        // What was not read would make the end a reset, which may overtake these words.
        let _ = tcp.try_read(&mut [0; 1024]);
    }

    /// Tells the sender, and ends the connection.
    pub(super) async fn tell(self, tcp: TcpStream) {
        match self.say {
            Say::Nothing => {}
            Say::Reply(reply) => goodbye(tcp, reply.as_bytes()).await,
            Say::Alert(alert) => goodbye(tcp, &alert.record()).await,
        }
    }
}

/// Says the last words, ends, and gives the peer a moment to take them.
async fn goodbye(mut tcp: TcpStream, words: &[u8]) {
    let _ = timeout(GOODBYE, async {
        if tcp.write_all(words).await.is_ok() && tcp.shutdown().await.is_ok() {
            discard(&tcp).await;
        }
    })
    .await;
}
