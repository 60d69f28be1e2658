//! What a server's processes use, as /proc says.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// /proc counts processor time in these (USER_HZ, which is 100 on every platform of Linux).
const TICK: Duration = Duration::from_millis(10);

/// A process and those that it started.
fn family(pid: u32) -> Result<Vec<u32>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(pid) = name.to_string_lossy().parse::<u32>() else { continue };
        // Some end in between.
        if let Ok(stat) = stat(pid) {
            parents.insert(pid, stat[1].parse::<u32>()?);
        }
    }
    let mut family = vec![pid];
    let mut at = 0;
    while at < family.len() {
        let one = family[at];
        let children = parents.iter().filter(|(_, parent)| **parent == one);
        family.extend(children.map(|(pid, _)| pid));
        at += 1;
    }
    Ok(family)
}

/// The fields of /proc/PID/stat after the name of the program: state, parent, …
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name is in parentheses and may have any in itself.
    let (_, fields) = text.rsplit_once(')').context("a process without a name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// Processor time of all threads of the process and of those that it started, kernel time included.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let mut ticks = 0;
    for pid in family(pid)? {
        let stat = stat(pid)?;
        // Fields 14 and 15 of the whole line.
        ticks += stat[11].parse::<u32>()? + stat[12].parse::<u32>()?;
    }
    Ok(TICK * ticks)
}

/// Memory in octets. What processes share counts once.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in family(pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        let kibibytes = line.split_whitespace().next().context("an empty Pss")?;
        sum += kibibytes.parse::<u64>()? * 1024;
    }
    Ok(sum)
}
