//! The way to the box that has a zone: a stream of its tunnel for each question.

use std::io;
use std::sync::Arc;

use sealpost_dns::transfer::attempt::Connect;
use sealpost_tunnel::control::OFFERS_ZONES;
use sealpost_tunnel::names::SessionId;
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Opening, PublicKey};
use tokio::io::AsyncWriteExt;

use crate::boxes::Boxes;

/// The tunnels of all boxes. Whoever asks bounds how long a stream may take.
pub(super) struct Tunnels(pub(super) Arc<Boxes>);

impl Connect for Tunnels {
    type Stream = TunnelStream;
    type Peer = PublicKey;

    async fn connect(&self, to: &PublicKey) -> io::Result<TunnelStream> {
        let Some(tunnel) = self.0.newest(to) else {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the box is away"));
        };
        if tunnel.capabilities & OFFERS_ZONES == 0 {
            let message = "the box's agent has no zones, or is too old to offer them";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let (send, recv) = tunnel.connection.open_bi().await.map_err(io::Error::other)?;
        let mut stream = TunnelStream::new(send, recv);
        stream.write_all(&Opening::Dns(SessionId(rand::random())).encode()).await?;
        Ok(stream)
    }
}
