//! A slow transfer gives way while others wait for its place: whoever sends just fast enough would hold
//! up everybody else for as long as a transfer may take. While nobody waits it may go on.
//!
//! What counts is how fast the octets came on average, after a time in which a zone of common size is
//! here even by a slow line. A zone that is here and is being looked at does not give way: it is not
//! its primary that is slow then.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

/// How long a transfer has its place whatever it brings: that is half a megabyte at the pace below.
const GRACE: Duration = Duration::from_secs(10);
/// Octets a second, on average, that keep a place for which others wait. By this a zone of 2 MiB, the
/// largest that relays take by default, is here in 42 s.
const KEEPS_ITS_PLACE: u64 = 50_000;
/// Between looks whether somebody waits.
const LOOK: Duration = Duration::from_secs(1);

/// The transfer was slow and others waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "gave way to others that waited, as it was slow: {octets} octets within {seconds} s, and \
     {KEEPS_ITS_PLACE} a second keep a place; it is tried again later"
)]
pub struct GaveWay {
    /// What came.
    pub octets: u64,
    /// Within this time.
    pub seconds: u64,
}

/// How many wait for a place. Whoever keeps it either sets the number or has each of them enter.
#[derive(Debug, Default)]
pub struct Crowd(AtomicUsize);

/// One that waits, until dropped.
#[derive(Debug)]
pub struct Waits<'a>(&'a Crowd);

impl Crowd {
    /// So many wait now, who are counted elsewhere.
    pub fn set(&self, waiting: usize) {
        self.0.store(waiting, Relaxed);
    }

    /// One more waits.
    pub fn enter(&self) -> Waits<'_> {
        self.0.fetch_add(1, Relaxed);
        Waits(self)
    }

    fn is_empty(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// How far a transfer is.
#[derive(Debug, Default)]
pub struct Progress {
    octets: AtomicU64,
    here: AtomicBool,
}

impl Progress {
    /// All came that was asked for.
    pub fn arrived(&self) {
        self.here.store(true, Relaxed);
    }

    /// A stream whose octets are counted. What comes on it is under way.
    pub fn count<S>(&self, stream: S) -> Counted<'_, S> {
        self.here.store(false, Relaxed);
        Counted { stream, octets: &self.octets }
    }

    /// Waits until the transfer, which begins now, has to give way.
    pub async fn gives_way(&self, to: &Crowd) -> GaveWay {
        let began = Instant::now();
        loop {
            sleep(LOOK).await;
            let (age, octets) = (began.elapsed(), self.octets.load(Relaxed));
            if !to.is_empty() && !self.here.load(Relaxed) && is_slow(age, octets) {
                return GaveWay { octets, seconds: age.as_secs() };
            }
        }
    }
}

fn is_slow(age: Duration, octets: u64) -> bool {
    age >= GRACE && octets < age.as_secs().saturating_mul(KEEPS_ITS_PLACE)
}

/// A stream whose octets are counted as they are read.
#[derive(Debug)]
pub struct Counted<'a, S> {
    stream: S,
    octets: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        self.octets.fetch_add(read as u64, Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn what_is_new_or_fast_is_not_slow() {
        let at = Duration::from_secs;
        assert!(!is_slow(Duration::from_millis(9_999), 0));
        assert!(is_slow(at(10), 0) && is_slow(at(10), 499_999));
        assert!(!is_slow(at(10), 500_000) && is_slow(at(11), 500_000));
        assert!(!is_slow(at(u64::MAX), u64::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_gives_way_when_somebody_waits_and_not_before() {
        let (crowd, progress) = (Crowd::default(), Progress::default());
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let drip = async {
            let mut near = progress.count(near);
            for _ in 0..200 {
                sleep(Duration::from_secs(1)).await;
                far.write_all(&[0; 2_000]).await.unwrap();
                near.read_exact(&mut [0; 2_000]).await.unwrap();
            }
        };
        let gave_way = async { progress.gives_way(&crowd).await };
        let waits = async {
            sleep(Duration::from_secs(100)).await;
            let waits = crowd.enter();
            sleep(Duration::from_secs(10)).await;
            drop(waits);
            assert!(crowd.is_empty());
        };
        let ((), gave_way, ()) = tokio::join!(drip, gave_way, waits);
        assert!((100..=102).contains(&gave_way.seconds), "{gave_way}");
        assert!((198_000..=204_000).contains(&gave_way.octets), "{gave_way}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_here_does_not_give_way() {
        let (crowd, progress) = (Crowd::default(), Progress::default());
        crowd.set(5);
        progress.arrived();
        let minute = Duration::from_secs(60);
        assert!(timeout(minute, progress.gives_way(&crowd)).await.is_err());
        // It did not fit, and is asked for again.
        let _stream = progress.count(tokio::io::empty());
        assert!(timeout(minute, progress.gives_way(&crowd)).await.is_ok());
    }
}
