//! A relay that says whatever a test has it say.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use sealpost_tunnel::ask::{read_request, write_answer};
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::quic::{self, Use};
use sealpost_tunnel::request::{Refusal, RefusalCode, Standing};
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::{Answer, Identity, PublicKey, Request, ResetCode};

/// What the relay does with a request.
pub(crate) enum Reply {
    /// Says this.
    Answer(Answer),
    /// Says these octets.
    Octets(Vec<u8>),
    /// Talks on and on.
    Endless,
    /// Says nothing.
    Nothing,
    /// Says half of an answer and resets the stream.
    Half,
    /// Closes the connection.
    Close(ResetCode),
}

type Script = Arc<dyn Fn(PublicKey, Request) -> Reply + Send + Sync>;

/// Who brought tunnels up, and how often each is told that there is news.
#[derive(Clone, Default)]
pub(crate) struct Tunnels(Arc<Mutex<Vec<(PublicKey, Connection)>>>, Arc<AtomicU32>);

impl Tunnels {
    /// The keys that the boxes proved, in order.
    pub(crate) fn keys(&self) -> Vec<PublicKey> {
        self.0.lock().unwrap().iter().map(|(key, _)| *key).collect()
    }

    /// From now on tells each new one `times` that there is news.
    pub(crate) fn say_news(&self, times: u32) {
        self.1.store(times, Ordering::Relaxed);
    }

    /// Ends them all, as a relay does for a key that is no longer good.
    pub(crate) fn cut(&self) {
        for (_, tunnel) in self.0.lock().unwrap().iter() {
            tunnel.close(ResetCode::Revoked.into(), b"");
        }
    }
}

/// A relay on a port of its own; stopped when dropped.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) tunnels: Tunnels,
    endpoint: Endpoint,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// A relay that answers as `script` says, given the key of whoever asks.
    pub(crate) fn start(
        script: impl Fn(PublicKey, Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(script);
        // A thread of its own, as tests wait for commands.
        let (runtime, worker) = runtime();
        let identity = Identity::ephemeral();
        let endpoint = {
            let _context = runtime.enter();
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            quic::relay_endpoint(any, &identity, &RestartKeys::ephemeral()).unwrap()
        };
        let tunnels = Tunnels::default();
        worker.spawn(accept(endpoint.clone(), script, tunnels.clone()));
        let address = endpoint.local_addr().unwrap();
        Self { address, identity, tunnels, endpoint, _runtime: runtime }
    }

    /// From now on the relay proves the key of `identity`.
    pub(crate) fn change_key(&self, identity: &Identity) {
        let config = quic::relay_server_config(identity, &RestartKeys::ephemeral());
        self.endpoint.set_server_config(Some(config));
    }
}

fn runtime() -> (tokio::runtime::Runtime, tokio::runtime::Handle) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    (runtime, handle)
}

async fn accept(endpoint: Endpoint, script: Script, tunnels: Tunnels) {
    while let Some(incoming) = endpoint.accept().await {
        let (script, tunnels) = (script.clone(), tunnels.clone());
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                serve(connection, script, tunnels).await;
            }
        });
    }
}

async fn serve(connection: Connection, script: Script, tunnels: Tunnels) {
    let key = quic::peer_key(&connection).unwrap();
    let mut control = None;
    if quic::purpose(&connection) == Some(Use::Tunnel) {
        // A tunnel is refused as a question for the standing is.
        if let Reply::Close(code) = script(key, Request::Standing) {
            connection.close(code.into(), b"");
            return;
        }
        control = Control::accept(&connection, &Hello::ours("hostile")).await.ok();
        for _ in 0..tunnels.1.load(Ordering::Relaxed) {
            if let Some(control) = &mut control {
                let _ = control.say_news().await;
            }
        }
        tunnels.0.lock().unwrap().push((key, connection.clone()));
    }
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(reply(connection.clone(), key, script.clone(), send, recv));
    }
    drop(control);
}

async fn reply(
    connection: Connection,
    key: PublicKey,
    script: Script,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let Ok(request) = read_request(&mut recv).await else {
        return;
    };
    match script(key, request) {
        Reply::Answer(answer) => drop(write_answer(&mut send, &answer).await),
        Reply::Octets(octets) => {
            let _ = send.write_all(&octets).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        }
        Reply::Endless => while send.write_all(&[b' '; 4096]).await.is_ok() {},
        Reply::Nothing => drop(send.stopped().await),
        Reply::Half => {
            let _ = send.write_all(b"{\"answer\":\"standing\",\"na").await;
            let _ = send.reset(ResetCode::Aborted.into());
        }
        Reply::Close(code) => connection.close(code.into(), b"go\x1b[31m away"),
    }
}

/// A box called `alice` with the key `key`.
pub(crate) fn standing(key: PublicKey) -> Standing {
    serde_json::from_value(serde_json::json!({
        "name": "alice", "key": key, "hostname": "relay.example.net", "domains_allowed": 5,
        "shared": ["198.51.100.1"],
    }))
    .unwrap()
}

/// The answer that a good relay gives about a box that it knows.
pub(crate) fn known(key: PublicKey) -> Reply {
    Reply::Answer(Answer::Standing(standing(key).into()))
}

/// A refusal.
pub(crate) fn refused(code: RefusalCode) -> Reply {
    let message = format!("refused for {}", code.label());
    Reply::Answer(Answer::Refused(Refusal { code, message }))
}
