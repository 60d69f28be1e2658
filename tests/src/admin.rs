//! The admin address of a Sealpost program: health and metrics.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};

use crate::machine::Machine;
use crate::smtp::connect;

/// The relay's admin port.
pub const RELAY: u16 = 9025;
/// The agent's admin port.
pub const AGENT: u16 = 9026;

/// The status and body that the program on `machine` answers to a GET.
pub fn get(machine: &Machine, port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = connect(machine, "127.0.0.1", port)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split(' ').nth(1).context("an HTTP status line")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code.parse()?, body.to_owned()))
}

/// Demands that the metrics of the relay on `machine` have these values.
pub fn expect_metrics(machine: &Machine, wanted: &[(&str, f64)]) -> Result<()> {
    for (name, value) in wanted {
        let name = format!("sealpost_relay_{name}");
        let got = metric(machine, RELAY, &name)?;
        ensure!(got == Some(*value), "{name} is {got:?}, not {value}");
    }
    Ok(())
}

/// The value of a metric as `/metrics` writes it, labels included; nothing if it is not there.
pub fn metric(machine: &Machine, port: u16, name: &str) -> Result<Option<f64>> {
    let (_, body) = get(machine, port, "/metrics")?;
    let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?)
}
