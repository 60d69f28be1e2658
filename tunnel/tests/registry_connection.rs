//! Relay and agent on loopback: what a connection is for, whom it trusts, what is asked on it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::Ipv4Addr;

use quinn::{Connection, ConnectionError, Endpoint};
use sealpost_tunnel::ask::{AskError, Asked, ask, read_asked, read_request, write_answer};
use sealpost_tunnel::control::{Hello, Message};
use sealpost_tunnel::greeting::{Control, Event, GreetingError};
use sealpost_tunnel::names::SessionId;
use sealpost_tunnel::quic::{self, Pin, Use};
use sealpost_tunnel::request::{
    Answer, MAX_ANSWER, MAX_REQUEST, Refusal, RefusalCode, Request, RequestError,
};
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::{Identity, Opening, PublicKey, ResetCode};

struct Relay {
    endpoint: Endpoint,
    identity: Identity,
    keys: RestartKeys,
}

impl Relay {
    fn start() -> Self {
        let (identity, keys) = (Identity::ephemeral(), RestartKeys::ephemeral());
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoint = quic::relay_endpoint(address, &identity, &keys).unwrap();
        Self { endpoint, identity, keys }
    }

    fn key(&self) -> PublicKey {
        self.identity.public()
    }

    async fn accept(&self) -> Connection {
        self.endpoint.accept().await.unwrap().await.unwrap()
    }

    /// A connection from both ends, the agent's first.
    async fn connected(&self, agent: &Agent, pin: Pin, purpose: Use) -> (Connection, Connection) {
        let (agent, relay) = tokio::join!(agent.dial(self, pin, purpose), self.accept());
        (agent.unwrap(), relay)
    }
}

struct Agent {
    endpoint: Endpoint,
    identity: Identity,
}

impl Agent {
    fn start() -> Self {
        let endpoint = quic::agent_endpoint((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { endpoint, identity: Identity::ephemeral() }
    }

    async fn dial(
        &self,
        relay: &Relay,
        pin: Pin,
        purpose: Use,
    ) -> Result<Connection, ConnectionError> {
        let address = relay.endpoint.local_addr().unwrap();
        quic::dial(&self.endpoint, address, &self.identity, pin, purpose).unwrap().await
    }
}

async fn asked_and_answered(
    agent: &Connection,
    relay: &Connection,
    request: &Request,
    answer: &Answer,
) -> (Request, Answer) {
    let serve = async {
        let (mut send, mut recv) = relay.accept_bi().await.unwrap();
        let request = read_request(&mut recv).await.unwrap();
        write_answer(&mut send, answer).await.unwrap();
        request
    };
    let (read, answered) = tokio::join!(serve, ask(agent, request));
    (read, answered.unwrap())
}

fn busy(message: &str) -> Answer {
    Answer::Refused(Refusal { code: RefusalCode::Busy, message: message.into() })
}

/// What the relay reads when an agent sends `octets` and then ends as `end` says.
async fn read_of(octets: &[u8], end: impl FnOnce(&mut quinn::SendStream)) -> AskError {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Registry).await;
    let (mut send, _recv) = from_agent.open_bi().await.unwrap();
    send.write_all(octets).await.unwrap();
    end(&mut send);
    let (_send, mut recv) = at_relay.accept_bi().await.unwrap();
    read_request(&mut recv).await.unwrap_err()
}

#[tokio::test]
async fn a_stream_for_dns_is_known_by_its_first_octet_and_nothing_behind_its_header_is_read() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Tunnel).await;
    let (mut send, _recv) = from_agent.open_bi().await.unwrap();
    let header = Opening::Dns(SessionId([7; 8])).encode();
    // Octet by octet, as a slow network brings it.
    for octet in [&header[..], b"message"].concat() {
        send.write_all(&[octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    send.finish().unwrap();
    let (_send, mut recv) = at_relay.accept_bi().await.unwrap();
    let asked = read_asked(&mut recv).await.unwrap();
    assert!(matches!(asked, Asked::Dns(SessionId([7, 7, 7, 7, 7, 7, 7, 7]))), "{asked:?}");
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"message");
}

#[tokio::test]
async fn a_header_for_dns_that_is_cut_or_too_long_is_refused() {
    for bad in [&[3][..], &[3, 0, 8, 1, 2, 3, 4, 5, 6, 7], &[3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        let error = read_of(bad, |send| send.finish().unwrap()).await;
        assert!(matches!(error, AskError::Header), "{error}");
    }
}

#[tokio::test]
async fn both_ends_know_who_is_there_and_what_for() {
    let (relay, agent) = (Relay::start(), Agent::start());
    for purpose in Use::ALL {
        let pin = Pin::Exactly(relay.key());
        let (from_agent, at_relay) = relay.connected(&agent, pin, purpose).await;
        assert_eq!(quic::purpose(&from_agent), Some(purpose));
        assert_eq!(quic::purpose(&at_relay), Some(purpose));
        assert_eq!(quic::peer_key(&at_relay), Some(agent.identity.public()));
        assert_eq!(quic::peer_key(&from_agent), Some(relay.key()));
    }
}

#[tokio::test]
async fn a_relay_with_another_key_than_the_pinned_one_is_refused() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let other = Pin::Exactly(Identity::ephemeral().public());
    for purpose in Use::ALL {
        let refused = async { relay.endpoint.accept().await.unwrap().await.is_err() };
        let (dialled, refused) = tokio::join!(agent.dial(&relay, other, purpose), refused);
        assert!(matches!(dialled, Err(ConnectionError::TransportError(_))), "{dialled:?}");
        assert!(refused);
    }
    let (from_agent, _at_relay) = relay.connected(&agent, Pin::Any, Use::Registry).await;
    assert_eq!(quic::peer_key(&from_agent), Some(relay.key()));
}

#[tokio::test]
#[should_panic(expected = "a tunnel is for a relay that is known")]
async fn there_is_no_tunnel_to_just_anybody() {
    let _ = Agent::start().dial(&Relay::start(), Pin::Any, Use::Tunnel).await;
}

#[tokio::test]
async fn a_relay_that_changes_its_key_proves_the_new_one_and_keeps_its_connections() {
    let (mut relay, agent) = (Relay::start(), Agent::start());
    let before = relay.key();
    let pin = Pin::Exactly(before);
    let (old_agent, old_relay) = relay.connected(&agent, pin, Use::Registry).await;
    relay.identity = Identity::ephemeral();
    let config = quic::relay_server_config(&relay.identity, &relay.keys);
    relay.endpoint.set_server_config(Some(config));
    let (new_agent, _new_relay) = relay.connected(&agent, Pin::Any, Use::Registry).await;
    assert_eq!(quic::peer_key(&new_agent), Some(relay.key()));
    assert_ne!(relay.key(), before);
    let answer = busy("still here");
    let (_, answered) =
        asked_and_answered(&old_agent, &old_relay, &Request::Standing, &answer).await;
    assert_eq!(answered, answer);
}

#[tokio::test]
async fn requests_are_answered_on_registry_connections_and_on_tunnels_alike() {
    let (relay, agent) = (Relay::start(), Agent::start());
    for purpose in Use::ALL {
        let pin = Pin::Exactly(relay.key());
        let (from_agent, at_relay) = relay.connected(&agent, pin, purpose).await;
        let request = Request::Succession { from: relay.key() };
        for answer in [busy("soon"), Answer::Left, Answer::Succession { chain: vec![] }] {
            let (read, answered) =
                asked_and_answered(&from_agent, &at_relay, &request, &answer).await;
            assert_eq!((read, answered), (request.clone(), answer));
        }
    }
}

#[tokio::test]
async fn an_answer_that_was_written_survives_the_close_behind_it() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Registry).await;
    let long = Answer::Succession { chain: vec![] };
    let serve = async {
        let (mut send, mut recv) = at_relay.accept_bi().await.unwrap();
        read_request(&mut recv).await.unwrap();
        write_answer(&mut send, &long).await.unwrap();
        at_relay.close(ResetCode::Revoked.into(), b"");
    };
    let (answered, ()) = tokio::join!(ask(&from_agent, &Request::Leave), serve);
    assert_eq!(answered.unwrap(), long);
}

#[tokio::test]
async fn a_request_is_whole_or_none() {
    let finish = |send: &mut quinn::SendStream| send.finish().unwrap();
    let whole = Request::Standing.encode();
    for bad in [&whole[..whole.len() - 1], b"", b"{}", &[&whole[..], &whole].concat()] {
        let error = read_of(bad, finish).await;
        let malformed = matches!(error, AskError::Document(RequestError::Malformed(_)));
        assert!(malformed, "{error}");
    }
    let cut = |send: &mut quinn::SendStream| send.reset(ResetCode::Aborted.into()).unwrap();
    assert!(matches!(read_of(&whole, cut).await, AskError::Reset(ResetCode::Aborted)));
}

#[tokio::test]
async fn an_endless_request_is_given_up() {
    let error = read_of(&vec![b' '; MAX_REQUEST + 1], |_| ()).await;
    assert!(matches!(error, AskError::Document(RequestError::TooLong(..))), "{error}");
}

#[tokio::test]
async fn a_request_that_does_not_end_is_given_up_in_time() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Registry).await;
    let (mut send, _recv) = from_agent.open_bi().await.unwrap();
    send.write_all(b"{").await.unwrap();
    let (_send, mut recv) = at_relay.accept_bi().await.unwrap();
    // From here on time passes as soon as there is nothing left to do but wait.
    tokio::time::pause();
    let error = read_request(&mut recv).await.unwrap_err();
    assert!(matches!(error, AskError::Timeout(_)), "{error}");
}

#[tokio::test]
async fn what_a_relay_says_too_much_or_not_at_all_is_an_error_that_names_it() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Registry).await;

    let flood = async {
        let (mut send, _recv) = at_relay.accept_bi().await.unwrap();
        let _ = send.write_all(&vec![b' '; MAX_ANSWER + 1]).await;
        send
    };
    let (answered, _send) = tokio::join!(ask(&from_agent, &Request::Standing), flood);
    assert!(matches!(answered, Err(AskError::Document(RequestError::TooLong(..)))));

    let older = async {
        let (mut send, mut recv) = at_relay.accept_bi().await.unwrap();
        let _ = send.reset(ResetCode::ServiceUnknown.into());
        let _ = recv.stop(ResetCode::ServiceUnknown.into());
    };
    let (answered, ()) = tokio::join!(ask(&from_agent, &Request::Standing), older);
    assert!(matches!(answered, Err(AskError::Reset(ResetCode::ServiceUnknown))));

    let close = async {
        let _stream = at_relay.accept_bi().await.unwrap();
        at_relay.close(ResetCode::UnknownBox.into(), b"");
    };
    let (answered, ()) = tokio::join!(ask(&from_agent, &Request::Standing), close);
    let error = answered.unwrap_err();
    assert_eq!(error.to_string(), "the connection ended: unknown-box");
}

#[tokio::test]
async fn news_and_the_end_reach_an_agent_and_news_reaches_nobody_else() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Tunnel).await;
    let hello = Hello::ours("test");
    let (box_side, relay_side) =
        tokio::join!(Control::open(&from_agent, &hello), Control::accept(&at_relay, &hello));
    let (mut box_side, mut relay_side) = (box_side.unwrap(), relay_side.unwrap());
    relay_side.say_news().await.unwrap();
    relay_side.probe().await.unwrap();
    relay_side.say_news().await.unwrap();
    relay_side.say_leaving().await.unwrap();
    relay_side.say_leaving().await.unwrap();
    relay_side.say_news().await.unwrap();
    for event in [Event::News, Event::News, Event::Leaving, Event::News] {
        assert_eq!(box_side.next_event().await.unwrap(), event);
    }
    // The relay said nothing of the kind, so nothing of the kind is sent to it.
    box_side.say_news().await.unwrap();
    box_side.say_leaving().await.unwrap();
    assert_eq!(relay_side.next_event().await.unwrap(), Event::Leaving);
}

#[tokio::test]
async fn an_agent_of_an_older_version_hears_no_news_and_one_that_floods_is_told_off() {
    let (relay, agent) = (Relay::start(), Agent::start());
    let pin = Pin::Exactly(relay.key());
    let (from_agent, at_relay) = relay.connected(&agent, pin, Use::Tunnel).await;
    let (mut send, mut recv) = from_agent.open_bi().await.unwrap();
    let hello = Hello::ours("old");
    send.write_all(&Message::Hello(hello.clone()).encode()).await.unwrap();
    let mut control = Control::accept(&at_relay, &hello).await.unwrap();
    control.say_news().await.unwrap();
    control.say_leaving().await.unwrap();
    let expected = [Message::Hello(hello).encode(), Message::Leaving.encode()].concat();
    let mut read = vec![0; expected.len()];
    recv.read_exact(&mut read).await.unwrap();
    assert_eq!(read, expected);

    let flood = Message::News.encode().repeat(2000);
    let (_, ended) = tokio::join!(send.write_all(&flood), control.next_event());
    assert!(matches!(ended, Err(GreetingError::Order)));
}
