//! DNS-OARC's dnsperf, which asks as fast as the server answers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::name_server::{Program, on};

/// Questions that wait for their answers at the same time.
const OUTSTANDING: &str = "200";

/// What it measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) per_second: f64,
    /// Answers with NOERROR or NXDOMAIN.
    pub(crate) good: u64,
}

/// Asks the questions of the file with the DO bit, for so long, on that processor. With `rate` not
/// faster than so many a second.
pub(crate) fn run(
    program: &Program,
    server: SocketAddr,
    questions: &Path,
    time: Duration,
    processor: usize,
    rate: Option<u32>,
) -> Result<Measured> {
    let mut command = on(Some(processor), program);
    command
        .args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-d"])
        .arg(questions)
        .args(["-l", &time.as_secs().to_string(), "-D", "-q", OUTSTANDING]);
    if let Some(rate) = rate {
        command.args(["-Q", &rate.to_string()]);
    }
    let output = command.output().context("run dnsperf")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let field = |name: &str| -> Result<&str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.with_context(|| format!("dnsperf says nothing of {name:?}:\n{text}"))
    };
    // "NOERROR 123 (99.9%), SERVFAIL 1 (0.1%)"
    let codes = text.lines().find_map(|line| line.trim().strip_prefix("Response codes:"));
    let mut good = 0;
    for code in codes.unwrap_or_default().split(',') {
        let mut words = code.split_whitespace();
        if let Some("NOERROR" | "NXDOMAIN") = words.next() {
            good += words.next().context("a count")?.parse::<u64>()?;
        }
    }
    Ok(Measured {
        asked: field("Queries sent:")?.parse()?,
        answered: field("Queries completed:")?.parse()?,
        per_second: field("Queries per second:")?.parse()?,
        good,
    })
}
