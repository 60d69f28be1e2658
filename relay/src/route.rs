//! Which box a connection is for. Pure, exact, and never a guess: a stream that reaches the wrong
//! box is a bounced message, as most mail servers answer a foreign recipient with 5xx.

use std::net::IpAddr;
use std::sync::Arc;

use sealpost_tunnel::{AddressPair, MxName};

use crate::pairs::history::Past;
use crate::registry::{BoxRecord, Snapshot};

/// What a sender's ClientHello says about whom it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sni {
    /// No name (or an IP address, which RFC 6066 section 3 forbids and TLS libraries skip).
    Absent,
    /// Something that is no host name.
    Bad,
    /// The ClientHello cannot be read as one.
    Unreadable,
    /// A host name.
    Name(MxName),
}

/// Everything that a route may depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteKey {
    /// The address at the relay that the sender connected to.
    pub local: IpAddr,
    /// Whom the sender named.
    pub sni: Sni,
    /// What the sender did before, of which only a sender without a name has need.
    pub past: Past,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// The address is shared and the sender named nobody.
    SniAbsent,
    /// The address is shared and what the sender named is no host name.
    SniBad,
    /// The address is shared and the ClientHello cannot be read.
    HelloMalformed,
    /// The address is shared and the name is nobody's here.
    SniUnknown,
    /// The sender named nobody at a second address, and may mean more than one box.
    PairAmbiguous,
}

/// The box that a connection is for, and by what.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'a> {
    /// The box.
    pub record: &'a Arc<BoxRecord>,
    /// By what it was found.
    pub by: By,
}

/// By what a box was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The address is the box's alone.
    Address,
    /// The sender named it.
    Name,
    /// The sender came from the box's first address to its second.
    Pair(AddressPair),
}

/// The box that owns the address; on a shared address the one that the sender named, and for a
/// sender without a name the one whose pair of addresses it has come through.
pub fn route<'a>(snapshot: &'a Snapshot, key: &RouteKey) -> Result<Routed<'a>, NoRoute> {
    // Junk names exist in the wild: on an address of one box they say nothing.
    if let Some(owner) = snapshot.by_address(key.local) {
        return Ok(Routed { record: owner, by: By::Address });
    }
    match &key.sni {
        Sni::Name(name) => {
            let record = snapshot.by_mx(name).ok_or(NoRoute::SniUnknown)?;
            Ok(Routed { record, by: By::Name })
        }
        Sni::Absent => by_pair(snapshot, key.local.to_canonical(), &key.past),
        Sni::Bad => Err(NoRoute::SniBad),
        Sni::Unreadable => Err(NoRoute::HelloMalformed),
    }
}

/// The one box of which `second` is the second address and whose first address the sender may come
/// from. With two of them, or when something may have been forgotten, there is none.
fn by_pair<'a>(snapshot: &'a Snapshot, second: IpAddr, past: &Past) -> Result<Routed<'a>, NoRoute> {
    if !snapshot.pair_roles().second.contains(&second) {
        return Err(NoRoute::SniAbsent);
    }
    if past.blind {
        return Err(NoRoute::PairAmbiguous);
    }
    let mut found = past.came_from.iter().filter_map(|from| {
        let pair = AddressPair { first: from.address, second };
        Some((snapshot.by_pair(&pair)?, pair, from.lately))
    });
    match (found.next(), found.next()) {
        (None, _) => Err(NoRoute::SniAbsent),
        (Some((record, pair, true)), None) => Ok(Routed { record, by: By::Pair(pair) }),
        _ => Err(NoRoute::PairAmbiguous),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Changed, Changes};
    use sealpost_tunnel::Identity;

    const OWN: &str = "2001:db8::a";
    const SHARED: &str = "198.51.100.1";

    fn snapshot() -> Snapshot {
        let record = |id, name: &str, address: Option<&str>| BoxRecord {
            id,
            name: name.into(),
            key: Identity::ephemeral().public(),
            mx: vec![format!("mx.{name}.example").parse().unwrap()],
            domains: vec![],
            addresses: address.map(|a| a.parse().unwrap()).into_iter().collect(),
            pairs: vec![],
        };
        let boxes = vec![record(256, "alice", Some(OWN)), record(257, "bob", None)];
        let boxes = boxes.into_iter().map(Changed::Active).collect();
        Snapshot::default().after(Changes { revision: 1, boxes, ..Changes::default() }).0
    }

    fn routed(local: &str, sni: Sni) -> Result<String, NoRoute> {
        let key = RouteKey { local: local.parse().unwrap(), sni, past: Past::default() };
        route(&snapshot(), &key).map(|routed| routed.record.name.clone())
    }

    fn name(text: &str) -> Sni {
        Sni::Name(text.parse().unwrap())
    }

    #[test]
    fn an_own_address_leads_to_its_box_whatever_the_sender_names() {
        for sni in [Sni::Absent, Sni::Bad, Sni::Unreadable, name("mx.bob.example")] {
            assert_eq!(routed(OWN, sni).unwrap(), "alice");
        }
    }

    #[test]
    fn a_shared_address_needs_the_exact_name() {
        assert_eq!(routed(SHARED, name("mx.bob.example")).unwrap(), "bob");
        assert_eq!(routed(SHARED, name("MX.Alice.example")).unwrap(), "alice");
        for near in ["bob.example", "a.mx.bob.example", "mx.bob.example.net", "xmx.bob.example"] {
            assert_eq!(routed(SHARED, name(near)), Err(NoRoute::SniUnknown));
        }
        assert_eq!(routed(SHARED, Sni::Absent), Err(NoRoute::SniAbsent));
        assert_eq!(routed(SHARED, Sni::Bad), Err(NoRoute::SniBad));
        assert_eq!(routed(SHARED, Sni::Unreadable), Err(NoRoute::HelloMalformed));
    }
}
