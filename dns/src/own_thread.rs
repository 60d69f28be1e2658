//! A runtime on a thread of its own, for what strangers can make busy: handshakes of TLS and QUIC, and
//! thousands of connections. A program around the name server may have one thread for all else.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The thread; it ends when this is dropped, and what still runs on it with it.
pub(crate) struct OwnThread {
    runtime: Handle,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl OwnThread {
    /// Starts a thread with this name.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let (ready, started) = sync_channel(1);
        // The runtime lives and dies on its thread: it cannot be dropped within another one.
        let work = move || match Builder::new_current_thread().enable_all().build() {
            Err(error) => drop(ready.send(Err(error))),
            Ok(runtime) => {
                let _ = ready.send(Ok(runtime.handle().clone()));
                runtime.block_on(until.cancelled());
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        let runtime = started.recv().map_err(io::Error::other)??;
        Ok(Self { runtime, stop, thread: Some(thread) })
    }

    /// Where tasks are spawned and sockets are registered that are to be of this thread.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends it, and waits until it did.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        let Some(thread) = self.thread.take() else { return };
        // It has no task that blocks, and its own panics are those of its tasks, which others hear of.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_goes_on_while_the_other_is_blocked_and_ends_with_its_owner() {
        let own = OwnThread::start("test").unwrap();
        let (sender, receiver) = channel();
        let named = move || drop(sender.send(thread::current().name().map(str::to_owned)));
        own.runtime().spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            named();
        });
        // Blocks the runtime of the test.
        let name = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(name.as_deref(), Some("test"));
        own.end().await;

        let own = OwnThread::start("test").unwrap();
        let waiting = own.runtime().spawn(std::future::pending::<()>());
        drop(own);
        assert!(waiting.await.unwrap_err().is_cancelled());
    }
}
