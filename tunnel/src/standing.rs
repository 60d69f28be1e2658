//! What a relay's registry holds about the box that asks.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::identity::PublicKey;
use crate::names::{BoxName, DomainName, MxName};
use crate::spoken::spoken;

/// The longest sentence for people that is taken from a relay, in characters.
const MAX_WORDS: usize = 1000;

/// A peer's sentence for people, without what a terminal would obey.
pub(crate) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| spoken(&text, MAX_WORDS))
}

/// One box at one relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What the relay's operator calls the box.
    pub name: BoxName,
    /// The box's key.
    pub key: PublicKey,
    /// The relay's own name, as senders see it.
    pub hostname: MxName,
    /// A name for the box under the relay's own domain: weaker than a domain of the owner's, as
    /// the relay could give it to somebody else.
    #[serde(default)]
    pub own_name: Option<MxName>,
    /// Addresses that are the box's alone.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Addresses that it shares with others, told apart by the name that a sender asks for.
    #[serde(default)]
    pub shared: Vec<IpAddr>,
    /// Shared addresses of which the order tells the box from others, for senders that name nobody:
    /// they fail at the first, and come to the second.
    #[serde(default)]
    pub pair: Option<AddressPair>,
    /// The names of the relay's name servers, for the zones of its boxes; none when it serves no zones.
    #[serde(default)]
    pub name_servers: Vec<MxName>,
    /// How many domains the box may claim.
    pub domains_allowed: u32,
    /// The domains that it has claimed.
    #[serde(default)]
    pub domains: Vec<DomainStanding>,
    /// The public half of the recovery key, when one is registered.
    #[serde(default)]
    pub recovery: Option<PublicKey>,
}

/// Two shared addresses of a relay, in the order of a box's mail exchangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressPair {
    /// Of the exchanger that is tried first.
    pub first: IpAddr,
    /// Of the exchanger that is tried next.
    pub second: IpAddr,
}

impl fmt::Display for AddressPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} then {}", self.first, self.second)
    }
}

/// One claimed domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainStanding {
    /// Which.
    pub domain: DomainName,
    /// The MX names that the box receives for with it.
    #[serde(default)]
    pub mx: Vec<MxName>,
    /// How the last proofs went.
    pub state: DomainState,
    /// How it is proved.
    pub method: ProofMethod,
    /// For people: what the last look found. As it is received, it holds nothing that steers a
    /// terminal.
    #[serde(default, deserialize_with = "words")]
    pub detail: String,
    /// When names stop, unless the proof is found before; seconds since 1970 by the relay's clock.
    #[serde(default)]
    pub suspends_on: Option<u64>,
}

/// How the proof of a domain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainState {
    /// It was found.
    Proved,
    /// It is missing; mail still arrives.
    Warned,
    /// It was missing for too long: no mail arrives for the names.
    Suspended,
}

/// What proves a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofMethod {
    /// A TXT record at `_sealpost` beneath it.
    Txt,
    /// The parent's DS record.
    Ds,
}
