//! One TCP or TLS connection, from its first query to its end.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;

use super::Streams;
use super::frame::{self, First};
use super::limits::Permit;
use super::messages::{Messages, write};
use crate::transport::{Carrier, Reply, Respond, Transfer};

/// Octets that a waiting connection has room for: several usual queries.
const READ: usize = 512;
/// Octets of answers that are collected before they are written.
const WRITE: usize = 16 * 1024;

/// Answers the queries that come through `stream` until the client is done, or is too slow, or has to
/// make room.
pub(super) async fn serve<R: Respond, T: Transfer>(
    streams: &Streams<R, T>,
    stream: &mut (impl AsyncRead + AsyncWrite + Send + Unpin),
    client: SocketAddr,
    carrier: Carrier,
    permit: &Permit,
) {
    let mut read = Vec::new();
    loop {
        let filled = tokio::select! {
            // What has come already is still answered.
            biased;
            filled = timeout(streams.settings.idle, fill(stream, &mut read)) => filled,
            () = permit.evicted() => return streams.counters.evicted(),
            () = streams.draining.cancelled() => return,
        };
        // Too slow, closed, or broken.
        let Ok(Ok(true)) = filled else { return };
        let Some(_hold) = permit.hold() else {
            return streams.counters.evicted();
        };
        match pass(streams, stream, client, carrier, &read).await {
            Ok(Some(used)) => drop(read.drain(..used)),
            Ok(None) => return streams.counters.malformed(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return streams.counters.unread();
            }
            Err(_) => return,
        }
        // A client that never stops asking is not waited for.
        if streams.draining.is_cancelled() {
            return;
        }
        if read.is_empty() && read.capacity() > 2 * READ {
            read = Vec::new();
        }
    }
}

/// Reads until there is something to do; `false` when the client has closed. Memory grows with what
/// has come, not with what was announced.
async fn fill(from: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> io::Result<bool> {
    while frame::first(read) == First::Incomplete {
        if read.capacity() - read.len() < READ / 2 {
            read.reserve(READ);
        }
        if from.read_buf(read).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Answers what has been read; the octets that were used, or `None` if there is something that is no
/// message.
async fn pass<R: Respond, T: Transfer>(
    streams: &Streams<R, T>,
    stream: &mut (impl AsyncRead + AsyncWrite + Send + Unpin),
    client: SocketAddr,
    carrier: Carrier,
    read: &[u8],
) -> io::Result<Option<usize>> {
    let patience = streams.settings.write;
    let mut out = Vec::new();
    let mut used = 0;
    let whole = loop {
        let (query, length) = match frame::first(&read[used..]) {
            First::Message(query, length) => (query, length),
            First::Incomplete => break true,
            First::Malformed => break false,
        };
        used += length;
        let reply = streams.answer(query, client, carrier, |answer| {
            // An answer that is too long is the engine's fault; the client asks elsewhere.
            let _ = frame::push(&mut out, answer);
        });
        if reply == Reply::Transfer {
            write(stream, &out, patience).await?;
            out.clear();
            transfer(streams, stream, client, carrier, query).await?;
        }
        if out.len() >= WRITE {
            write(stream, &out, patience).await?;
            out.clear();
        }
    };
    if !out.is_empty() {
        write(stream, &out, patience).await?;
    }
    Ok(whole.then_some(used))
}

/// Has `query` served by the transfer module, when it is its turn.
pub(super) async fn transfer<R: Respond, T: Transfer>(
    streams: &Streams<R, T>,
    to: &mut (impl AsyncWrite + Send + Unpin),
    client: SocketAddr,
    carrier: Carrier,
    query: &[u8],
) -> io::Result<()> {
    let turn = timeout(streams.settings.idle, streams.transfers.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(io::Error::other("too many transfers"));
    };
    let mut messages = Messages::new(to, streams.settings.write);
    let served = streams.transfer.serve(query, client, carrier, &mut messages);
    timeout(streams.settings.transfer, served)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
