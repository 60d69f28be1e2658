//! What the processors of this machine did, for benches on machines whose host takes time away.

use anyhow::{Context, Result};

/// What /proc/stat says of all processors together.
#[derive(Debug, Clone, Copy)]
pub struct Processors {
    all: u64,
    stolen: u64,
}

impl Processors {
    /// The times until now.
    pub fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        // user, nice, system, idle, iowait, irq, softirq, steal; the rest is in user already.
        let times = times.take(8).map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        Ok(Self { all: times.iter().sum(), stolen: *times.get(7).context("no steal column")? })
    }

    /// The share of the time since then that the host took, from 0 to 1.
    pub fn taken_since(&self) -> Result<f64> {
        let now = Self::now()?;
        Ok((now.stolen - self.stolen) as f64 / (now.all - self.all).max(1) as f64)
    }
}
