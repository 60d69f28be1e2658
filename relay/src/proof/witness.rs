//! Who was asked about a domain, and what each of them said. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use sealpost_tunnel::Fingerprint;

use super::record::Reading;

/// Who was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A resolver of the relay's operator.
    Resolver(SocketAddr),
    /// One of the domain's own name servers.
    Server {
        /// As the zone names it.
        name: String,
        /// Where it was asked.
        address: IpAddr,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolver(address) => write!(f, "resolver {}", address.ip()),
            Self::Server { name, address } => write!(f, "{name} ({address})"),
        }
    }
}

/// What one of them said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There are TXT records.
    Found {
        /// What each of them says.
        records: Vec<Reading>,
        /// Whether DNSSEC proves them.
        secure: bool,
    },
    /// There is no TXT record.
    NoRecord {
        /// Whether DNSSEC proves that.
        secure: bool,
    },
    /// The name is an alias (CNAME, DNAME), or delegated to other name servers: what is found
    /// there is not the domain's own word.
    Elsewhere,
    /// The zone is signed, and this answer is not what was signed.
    Bogus,
    /// No answer that means anything, and why: continues "NAME: …".
    Silent(String),
}

/// Who said what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Who.
    pub source: Source,
    /// What.
    pub answer: Answer,
}

/// What an answer says on whether the domain names a certain box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vote {
    Yes,
    No,
    Bogus,
    Silent,
}

impl Statement {
    pub(super) fn vote(&self, wanted: Fingerprint) -> Vote {
        match &self.answer {
            Answer::Found { records, .. } if records.contains(&Reading::Box(wanted)) => Vote::Yes,
            Answer::Found { .. } | Answer::NoRecord { .. } | Answer::Elsewhere => Vote::No,
            Answer::Bogus => Vote::Bogus,
            Answer::Silent(_) => Vote::Silent,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.source, Source::Server { .. })
    }

    pub(super) fn is_secure(&self) -> bool {
        matches!(
            self.answer,
            Answer::Found { secure: true, .. } | Answer::NoRecord { secure: true }
        )
    }
}
