//! Where what is not a plain query is answered: transfers, notices, and what is signed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::engine::Engine;
use crate::secondaries::Shelf;
use crate::stream::Messages;
use crate::transfer::attempt::Connect;
use crate::transfer::serve::{Over, Reply, Server};
use crate::transport::{Carrier, Transfer};
use crate::trust::Parent;
use crate::udp::Handed;
use crate::unix_time;

/// Answers what is not a plain query.
pub(crate) struct Desk<C: Connect, P> {
    pub(crate) server: Arc<Server<Shelf<C, P>>>,
    pub(crate) engine: Arc<Engine>,
}

impl<C: Connect, P> Clone for Desk<C, P> {
    fn clone(&self) -> Self {
        Self { server: self.server.clone(), engine: self.engine.clone() }
    }
}

impl<C: Connect, P: Parent> Desk<C, P> {
    fn handle(&self, query: &[u8], client: SocketAddr, over: Over) -> Reply {
        let plain = |query: &[u8], out: &mut Vec<u8>| self.engine.answer_stream(query, out);
        self.server.handle(query, client.ip(), over, unix_time::seconds(), plain)
    }

    /// Answers a datagram.
    pub(crate) fn answer(&self, handed: &Handed) {
        if let Reply::One(message) =
            self.handle(&handed.query, handed.reply.client(), Over::Datagram)
        {
            // Who gets none asks again.
            let _ = handed.reply.send(&message);
        }
    }
}

impl<C: Connect, P: Parent> Transfer for Desk<C, P> {
    async fn serve(
        &self,
        query: &[u8],
        client: SocketAddr,
        _: Carrier,
        to: &mut Messages<'_>,
    ) -> io::Result<()> {
        match self.handle(query, client, Over::Stream) {
            Reply::Nothing => Ok(()),
            Reply::One(message) => to.send(&message).await,
            Reply::Transfer(mut transfer) => {
                while let Some(message) = transfer.next(unix_time::seconds()) {
                    to.send(&message.map_err(io::Error::other)?).await?;
                    // A fast reader must not keep the thread for a whole zone.
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        }
    }
}
