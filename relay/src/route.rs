//! Which box a connection is for. Pure, exact, and never a guess: a stream that reaches the wrong
//! box is a bounced message, as most mail servers answer a foreign recipient with 5xx.

use std::net::IpAddr;
use std::sync::Arc;

use sealpost_tunnel::MxName;

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
    /// The sender.
    pub client: IpAddr,
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
}

/// The box that owns the address; on a shared address the one that the sender named.
pub fn route<'a>(snapshot: &'a Snapshot, key: &RouteKey) -> Result<&'a Arc<BoxRecord>, NoRoute> {
    // Junk names exist in the wild: on an address of one box they say nothing.
    if let Some(owner) = snapshot.by_address(key.local) {
        return Ok(owner);
    }
    match &key.sni {
        Sni::Name(name) => snapshot.by_mx(name).ok_or(NoRoute::SniUnknown),
        Sni::Absent => Err(NoRoute::SniAbsent),
        Sni::Bad => Err(NoRoute::SniBad),
        Sni::Unreadable => Err(NoRoute::HelloMalformed),
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
            addresses: address.map(|a| a.parse().unwrap()).into_iter().collect(),
        };
        let boxes = vec![record(256, "alice", Some(OWN)), record(257, "bob", None)];
        let boxes = boxes.into_iter().map(Changed::Active).collect();
        Snapshot::default().after(Changes { revision: 1, boxes, ..Changes::default() }).0
    }

    fn routed(local: &str, sni: Sni) -> Result<String, NoRoute> {
        let client = "192.0.2.9".parse().unwrap();
        let key = RouteKey { local: local.parse().unwrap(), sni, client };
        route(&snapshot(), &key).map(|b| b.name.clone())
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
