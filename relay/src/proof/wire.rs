//! One question to one name server: over UDP, and over TCP when the answer is too long for it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// For one question with all its attempts.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// For one packet, before it is sent again.
const RETRY: Duration = Duration::from_millis(900);
/// The most that is read of an answer.
const MAX_ANSWER: usize = 16 * 1024;
/// The largest packet that passes everywhere in one piece (RFC 9715).
const MAX_PACKET: u16 = 1232;
/// After so many packets that are not the answer somebody is guessing; TCP cannot be guessed.
const MAX_STRAY: u32 = 8;

/// Who is asked, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A name server that shall answer out of its own zone.
    Server,
    /// A resolver that shall find out.
    Resolver,
    /// A resolver that shall send signatures along.
    Signatures,
}

/// Why there is no answer. Each text continues "NAME: …".
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// Silence, or an answer that comes too slowly.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    /// A connection that fails.
    #[error("cannot be reached ({0})")]
    Io(#[from] io::Error),
    /// More than anybody needs.
    #[error("sent an answer of more than {} KiB", MAX_ANSWER / 1024)]
    TooLong,
    /// No DNS message, or not one for the question.
    #[error("sent something that is no answer to the question")]
    NoAnswer,
}

/// Asks, and returns the answer whatever it says.
pub(super) async fn ask(
    server: SocketAddr,
    role: Role,
    query: &Query,
) -> Result<Message, WireError> {
    let asked = timeout(PATIENCE, async {
        match ask_by_packet(server, role, query).await? {
            Some(answer) => Ok(answer),
            None => ask_by_stream(server, role, query).await,
        }
    });
    asked.await.unwrap_or(Err(WireError::Late))
}

/// `None`: the answer is too long, or somebody else sends answers too.
async fn ask_by_packet(
    server: SocketAddr,
    role: Role,
    query: &Query,
) -> Result<Option<Message>, WireError> {
    loop {
        // A new port and a new number for each attempt leave the most to guess.
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        let (id, bytes) = question(role, query)?;
        socket.send(&bytes).await?;
        match timeout(RETRY, receive(&socket, id, query)).await {
            Ok(Ok(Some(answer))) if !answer.metadata.truncation => return Ok(Some(answer)),
            Ok(Ok(_)) => return Ok(None),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
}

/// The answer; `None` after too many packets that are none.
async fn receive(socket: &UdpSocket, id: u16, query: &Query) -> io::Result<Option<Message>> {
    let mut buffer = vec![0; 4096];
    for _ in 0..MAX_STRAY {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer(&buffer[..length], id, query) {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

async fn ask_by_stream(
    server: SocketAddr,
    role: Role,
    query: &Query,
) -> Result<Message, WireError> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, bytes) = question(role, query)?;
    let length = u16::try_from(bytes.len()).map_err(|_| WireError::TooLong)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_ANSWER {
        return Err(WireError::TooLong);
    }
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    let answer = answer(&buffer, id, query).ok_or(WireError::NoAnswer)?;
    if answer.metadata.truncation { Err(WireError::TooLong) } else { Ok(answer) }
}

fn question(role: Role, query: &Query) -> Result<(u16, Vec<u8>), WireError> {
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = role != Role::Server;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_PACKET).set_dnssec_ok(role == Role::Signatures);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(|error| WireError::Io(io::Error::other(error)))?;
    Ok((id, bytes))
}

/// The message in `bytes`, if it answers this very question.
fn answer(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let meta = &message.metadata;
    let is_answer = meta.id == id
        && meta.message_type == MessageType::Response
        && meta.op_code == OpCode::Query;
    let [asked] = message.queries.as_slice() else { return None };
    let is_asked = asked.name() == query.name()
        && asked.query_type() == query.query_type()
        && asked.query_class() == query.query_class();
    (is_answer && is_asked).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    use std::time::Instant;
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    fn query() -> Query {
        Query::query(Name::from_ascii("_sealpost.home.example.").unwrap(), RecordType::TXT)
    }

    /// The answer of an honest server to the question in `bytes`.
    fn honest(bytes: &[u8]) -> Message {
        let asked = Message::from_vec(bytes).unwrap();
        let mut message = Message::response(asked.id, OpCode::Query);
        message.add_query(asked.queries[0].clone());
        let data = RData::TXT(TXT::new(vec!["sealpost1".into()]));
        message.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, data));
        message
    }

    /// A server that answers the packets of one question with what `play` makes of each.
    async fn server(
        play: impl Fn(u32, &[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> (SocketAddr, TcpListener) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            for attempt in 0.. {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                for packet in play(attempt, &buffer[..length]) {
                    udp.send_to(&packet, from).await.unwrap();
                }
            }
        });
        (address, tcp)
    }

    fn truncated(bytes: &[u8]) -> Vec<u8> {
        let mut message = honest(bytes);
        message.answers.clear();
        message.metadata.truncation = true;
        message.to_vec().unwrap()
    }

    /// Reads a question from TCP and gives back its bytes.
    async fn accept(tcp: &TcpListener) -> (TcpStream, Vec<u8>) {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        (stream, bytes)
    }

    #[tokio::test]
    async fn an_answer_is_taken_and_a_lost_one_asked_for_again() {
        let (address, _tcp) = server(|attempt, bytes| match attempt {
            0 => vec![],
            _ => vec![honest(bytes).to_vec().unwrap()],
        })
        .await;
        let answer = ask(address, Role::Server, &query()).await.unwrap();
        assert_eq!(answer.answers.len(), 1);
    }

    #[tokio::test]
    async fn packets_that_are_not_the_answer_are_passed_over() {
        let (address, _tcp) = server(|_, bytes| {
            let good = honest(bytes);
            let mut other_id = good.clone();
            other_id.metadata.id ^= 1;
            let mut other_name = good.clone();
            other_name.queries[0].set_name(Name::from_ascii("evil.example.").unwrap());
            let mut other_type = good.clone();
            other_type.queries[0].set_query_type(RecordType::A);
            let mut no_answer = good.clone();
            no_answer.metadata.message_type = MessageType::Query;
            let mut no_question = good.clone();
            no_question.queries.clear();
            let mut packets: Vec<Vec<u8>> =
                [other_id, other_name, other_type, no_answer, no_question, good]
                    .iter()
                    .map(|message| message.to_vec().unwrap())
                    .collect();
            packets.insert(0, b"noise".to_vec());
            packets
        })
        .await;
        let answer = ask(address, Role::Server, &query()).await.unwrap();
        assert_eq!(answer.queries[0].name(), query().name());
        assert_eq!(answer.answers.len(), 1);
    }

    #[tokio::test]
    async fn long_answers_and_guesses_lead_to_tcp() {
        for flood in [false, true] {
            let (address, tcp) =
                server(
                    move |_, bytes| {
                        if flood { vec![b"guess".to_vec(); 20] } else { vec![truncated(bytes)] }
                    },
                )
                .await;
            tokio::spawn(async move {
                let (mut stream, bytes) = accept(&tcp).await;
                let answer = honest(&bytes).to_vec().unwrap();
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
                sleep(PATIENCE).await;
            });
            let answer = ask(address, Role::Server, &query()).await.unwrap();
            assert_eq!(answer.answers.len(), 1);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_or_drips_is_given_up() {
        for (length, expected) in [(60_000, "more than 16 KiB"), (2000, "no answer within 3 s")] {
            let (address, tcp) = server(|_, bytes| vec![truncated(bytes)]).await;
            tokio::spawn(async move {
                let (mut stream, _) = accept(&tcp).await;
                stream.write_u16(length).await.unwrap();
                while stream.write_u8(0).await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
            });
            let start = Instant::now();
            let error = ask(address, Role::Server, &query()).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(start.elapsed() < PATIENCE + Duration::from_secs(1));
        }
    }

    #[tokio::test]
    async fn silence_is_given_up() {
        let (address, _tcp) = server(|_, _| vec![]).await;
        let start = Instant::now();
        assert!(matches!(ask(address, Role::Server, &query()).await, Err(WireError::Late)));
        assert!(start.elapsed() < PATIENCE + Duration::from_secs(1));
    }
}
