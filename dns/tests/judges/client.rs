//! Questions over UDP, many in flight.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::{MessageBuilder, Name, Rtype};

/// Few enough that no socket buffer overflows.
const IN_FLIGHT: usize = 32;
/// On loopback nothing is lost; a server under a loaded machine may be late.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;
/// What we say we take (RFC 6891 section 6.2.3).
const UDP_PAYLOAD: u16 = 4096;

/// One question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// In the case in which it is asked.
    pub(crate) name: Name<Bytes>,
    pub(crate) rtype: Rtype,
    /// With EDNS and the DO bit (RFC 4035 section 3.2.1), or without EDNS.
    pub(crate) dnssec: bool,
}

impl Question {
    /// The question section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut section = self.name.as_slice().to_vec();
        section.extend(self.rtype.to_int().to_be_bytes());
        section.extend(Class::IN.to_int().to_be_bytes());
        section
    }

    fn message(&self, id: u16) -> Result<Vec<u8>> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        let mut builder = builder.question();
        builder.push((&self.name, self.rtype))?;
        let mut builder = builder.additional();
        if self.dnssec {
            builder.opt(|opt| {
                opt.set_udp_payload_size(UDP_PAYLOAD);
                opt.set_dnssec_ok(true);
                Ok(())
            })?;
        }
        Ok(builder.finish())
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name.fmt_with_dot(), self.rtype)?;
        if self.dnssec { f.write_str(" +DO") } else { Ok(()) }
    }
}

/// Asks all questions and returns the messages that came back, in the order of the questions.
pub(crate) fn ask_all(server: SocketAddr, questions: &[Question]) -> Result<Vec<Vec<u8>>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answers = vec![Vec::new(); questions.len()];
    let mut asked: HashMap<u16, usize> = HashMap::new();
    let (mut next, mut attempts) = (0, 0);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    // At most 32 are open, so that the low 16 bits of a question's number are one question's.
    let id = |at: usize| (at & usize::from(u16::MAX)) as u16;
    while next < questions.len() || !asked.is_empty() {
        while next < questions.len() && asked.len() < IN_FLIGHT {
            socket.send(&questions[next].message(id(next))?)?;
            asked.insert(id(next), next);
            next += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let got = buffer.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
                let at = got.and_then(|id| asked.remove(&id));
                // Else it is the answer to a question that was asked twice.
                if let Some(at) = at {
                    answers[at] = buffer[..length].to_vec();
                    attempts = 0;
                }
            }
            Err(_) if attempts < ATTEMPTS => {
                attempts += 1;
                for &at in asked.values() {
                    socket.send(&questions[at].message(id(at))?)?;
                }
            }
            Err(error) => {
                let silent = asked.values().min().map(|&at| questions[at].to_string());
                bail!("no answer to {}: {error}", silent.context("a question")?);
            }
        }
    }
    Ok(answers)
}
