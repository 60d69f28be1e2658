//! Asks one server one question: over UDP, and over TCP when the answer does not fit.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::message::{self, Answer, Question, Unfit};

/// How long an answer over UDP is waited for, each time that it is asked.
const PATIENCE: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];
/// How long an exchange over TCP may take.
const TCP: Duration = Duration::from_secs(4);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Nothing came.
    #[error("it does not answer")]
    None,
    /// This machine has no way there, mostly as it has no IPv6.
    #[error("this box has no way there")]
    NoWay,
    /// Something came that is no answer.
    #[error("its answer is of no use: {0}")]
    Unfit(#[from] Unfit),
    /// It sends what does not fit, and does not send it over TCP.
    #[error("its answer is cut off, and over TCP it does not answer: {0}")]
    Tcp(String),
    /// The system refuses.
    #[error("it cannot be asked: {0}")]
    Refused(String),
}

/// What a system says to a socket of a family that is switched off, as IPv6 often is. The standard
/// library has no kind for it.
const NO_FAMILY: i32 = nix::errno::Errno::EAFNOSUPPORT as i32;

impl From<io::Error> for Silence {
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(NO_FAMILY) {
            return Self::NoWay;
        }
        match error.kind() {
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable => Self::NoWay,
            io::ErrorKind::TimedOut => Self::None,
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// Asks `server`. Takes at most 10 s.
pub async fn ask(server: SocketAddr, question: &Question) -> Result<Answer, Silence> {
    let query = |id| message::query(question, id);
    let read = |octets, id| {
        let answer = message::read(octets, question, id)?;
        Ok(if answer.truncated { Read::Cut } else { Read::Whole(answer) })
    };
    talk(server, &query, &read).await
}

/// What came.
pub enum Read<T> {
    /// The answer.
    Whole(T),
    /// One that was cut to fit (TC).
    Cut,
}

/// Asks `server` what `query` writes with a number, and takes what `read` finds to be the answer to it.
/// Takes at most 10 s.
pub async fn talk<T>(
    server: SocketAddr,
    query: &(impl Fn(u16) -> Vec<u8> + Sync),
    read: &(impl Fn(Bytes, u16) -> Result<Read<T>, Unfit> + Sync),
) -> Result<T, Silence> {
    let mut silence = Silence::None;
    for patience in PATIENCE {
        match over_udp(server, query, read, Instant::now() + patience).await {
            Ok(Read::Cut) => return over_tcp(server, query, read).await,
            Ok(Read::Whole(answer)) => return Ok(answer),
            Err(Silence::None) => {}
            Err(Silence::NoWay) => return Err(Silence::NoWay),
            // Such as a port that is closed for a moment, while the server starts again.
            Err(other) => silence = other,
        }
    }
    Err(silence)
}

async fn over_udp<T>(
    server: SocketAddr,
    query: &impl Fn(u16) -> Vec<u8>,
    read: &impl Fn(Bytes, u16) -> Result<Read<T>, Unfit>,
    until: Instant,
) -> Result<Read<T>, Silence> {
    let any =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of its own for each question makes answers harder to forge, and connected it takes
    // nobody else's.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&query(id)).await?;
    let mut room = [0; message::PAYLOAD as usize];
    loop {
        let Ok(length) = timeout_at(until, socket.recv(&mut room)).await else {
            return Err(Silence::None);
        };
        let octets = Bytes::copy_from_slice(&room[..length?]);
        match read(octets, id) {
            // A forgery, or the late answer to an earlier question.
            Err(Unfit::Other) => {}
            read => return Ok(read?),
        }
    }
}

async fn over_tcp<T>(
    server: SocketAddr,
    query: &impl Fn(u16) -> Vec<u8>,
    read: &impl Fn(Bytes, u16) -> Result<Read<T>, Unfit>,
) -> Result<T, Silence> {
    let failed = |error: io::Error| Silence::Tcp(error.to_string());
    let id = rand::random();
    let exchanged = async {
        let mut stream = TcpStream::connect(server).await?;
        let query = query(id);
        // A query is far shorter than what the prefix can say.
        let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
        let mut octets = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut octets).await?;
        Ok(octets)
    };
    match timeout_at(Instant::now() + TCP, exchanged).await {
        Err(_) => Err(Silence::Tcp("no answer".into())),
        Ok(octets) => match read(octets.map_err(failed)?.into(), id)? {
            Read::Whole(answer) => Ok(answer),
            Read::Cut => Err(Silence::Tcp("it is cut off there, too".into())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::message::Of;
    use domain::base::iana::Rtype;

    #[test]
    fn a_family_that_is_switched_off_is_no_way() {
        assert_eq!(Silence::from(io::Error::from_raw_os_error(NO_FAMILY)), Silence::NoWay);
        assert_eq!(
            Silence::from(io::Error::from(io::ErrorKind::NetworkUnreachable)),
            Silence::NoWay
        );
    }

    #[tokio::test]
    async fn who_is_not_there_is_named_and_not_waited_for_without_end() {
        let question =
            Question { name: "a.example.".parse().unwrap(), rtype: Rtype::A, of: Of::NameServer };
        // A port that nobody listens at.
        let held = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = held.local_addr().unwrap();
        drop(held);
        assert!(matches!(ask(address, &question).await, Err(Silence::Refused(_))));
    }
}
