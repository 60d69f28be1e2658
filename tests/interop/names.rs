//! The lab's part of the DNS: a domain for every way to the box, and for every way to nobody.

use sealpost_tests::network::{RELAY_OWN_V4, RELAY_SHARED_V4};

use crate::kinds::Kind;

/// What the box claims.
pub(crate) const DOMAIN: &str = "lab.example";
/// The box's own address.
const OWN_V6: &str = "2001:db8:7::100";
/// In the prefix, and no box's.
const NOBODYS_V6: &str = "2001:db8:7::ffff";
/// An address of the relay that is given to no box.
pub(crate) const NOBODYS_V4: &str = "203.0.113.8";

/// A way from a sender to the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// MX 10 at an IPv6 address of the box's own.
    OwnV6,
    /// MX 10 at an IPv4 address of the box's own.
    OwnV4,
    /// MX 10 at an address that boxes share, where the name in the ClientHello decides.
    Shared,
    /// MX 20 and MX 30 at the two shared addresses of the box's pair.
    Pair,
}

impl Route {
    pub(crate) const ALL: [Route; 4] = [Route::OwnV6, Route::OwnV4, Route::Shared, Route::Pair];

    /// As tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Route::OwnV6 => "own IPv6",
            Route::OwnV4 => "own IPv4",
            Route::Shared => "name (SNI) on shared",
            Route::Pair => "pair on shared",
        }
    }

    /// As words of messages and domains call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Route::OwnV6 => "own6",
            Route::OwnV4 => "own4",
            Route::Shared => "sni",
            Route::Pair => "pair",
        }
    }
}

/// Two addresses, in their order.
pub(crate) type Pair = [String; 2];

/// The pair of the box, and one that no box has.
#[derive(Debug, Clone)]
pub(crate) struct Pairs {
    pub(crate) ours: Pair,
    pub(crate) nobodys: Pair,
}

/// Where a domain leads, and how.
#[derive(Debug, Clone, Copy)]
struct Way {
    route: Route,
    /// Whether it is the box that it leads to.
    known: bool,
    /// Whether its mail exchangers have TLSA records.
    tlsa: bool,
}

impl Way {
    fn all() -> impl Iterator<Item = Way> {
        Route::ALL.into_iter().flat_map(|route| {
            [(true, true), (true, false), (false, true), (false, false)].map(|(known, tlsa)| Way {
                route,
                known,
                tlsa,
            })
        })
    }

    fn name(self, host: &str) -> String {
        let known = if self.known { "" } else { "-unknown" };
        let bare = if self.tlsa { "" } else { "-bare" };
        format!("{host}{known}{bare}.{DOMAIN}")
    }

    fn domain(self) -> String {
        self.name(self.route.word())
    }

    /// The names of its mail exchangers, in the order of their preference.
    fn exchangers(self) -> Vec<String> {
        let hosts: &[&str] = match self.route {
            Route::OwnV6 => &["mx6"],
            Route::OwnV4 => &["mx4"],
            Route::Shared => &["mx"],
            Route::Pair => &["first", "second"],
        };
        hosts.iter().map(|host| self.name(host)).collect()
    }

    fn addresses(self, pairs: &Pairs) -> Vec<String> {
        let own =
            |ours: &str, nobodys: &str| vec![if self.known { ours } else { nobodys }.to_owned()];
        match self.route {
            Route::OwnV6 => own(OWN_V6, NOBODYS_V6),
            Route::OwnV4 => own(RELAY_OWN_V4, NOBODYS_V4),
            Route::Shared => own(RELAY_SHARED_V4, RELAY_SHARED_V4),
            Route::Pair => if self.known { &pairs.ours } else { &pairs.nobodys }.to_vec(),
        }
    }
}

/// The domain by which a sender of this kind is led there.
pub(crate) fn domain(kind: Kind, route: Route, known: bool) -> String {
    Way { route, known, tlsa: kind.finds_tlsa() }.domain()
}

/// All domains that lead to the box.
pub(crate) fn all() -> Vec<String> {
    Way::all().filter(|way| way.known).map(Way::domain).collect()
}

/// All names of mail exchangers.
pub(crate) fn exchangers() -> Vec<String> {
    Way::all().flat_map(Way::exchangers).collect()
}

/// The names that the box claims: at an address of its own none is needed.
pub(crate) fn claimed() -> Vec<String> {
    let shared = |way: &Way| matches!(way.route, Route::Shared | Route::Pair) && way.known;
    Way::all().filter(shared).flat_map(Way::exchangers).collect()
}

/// The records. `authors` are the addresses of the author's mail server: the one with TLS, and the
/// one without.
pub(crate) fn records(tlsa: &str, pairs: &Pairs, authors: [&str; 2]) -> String {
    let [sealed, plain] = authors;
    let mut zone = format!(
        "sender.example. IN MX 10 sink.sender.example.\n\
         refused.example. IN MX 10 sink.sender.example.\n\
         plain.example. IN MX 10 plain.sender.example.\n\
         sink.sender.example. IN A {sealed}\nplain.sender.example. IN A {plain}\n\
         mail.sender.example. IN A {sealed}\n"
    );
    for way in Way::all() {
        let first = if way.route == Route::Pair { 20 } else { 10 };
        let exchangers = way.exchangers().into_iter().zip(way.addresses(pairs));
        for ((name, address), preference) in exchangers.zip((first..).step_by(10)) {
            let kind = if address.contains(':') { "AAAA" } else { "A" };
            zone += &format!("{}. IN MX {preference} {name}.\n", way.domain());
            zone += &format!("{name}. IN {kind} {address}\n");
            if way.tlsa {
                zone += &format!("_25._tcp.{name}. IN TLSA {tlsa}\n");
            }
        }
    }
    zone
}
