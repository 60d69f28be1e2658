//! Whatever a stranger sends to the name server. An answer is a message within its bound, and the same
//! by UDP and TCP but for what does not fit.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use domain::base::Message;
use domain::base::name::FlattenInto;
use domain::zonefile::inplace::{Entry as Line, Zonefile};
use libfuzzer_sys::fuzz_target;
use sealpost_dns::served::Entry;
use sealpost_dns::cookie::{Cookies, Secret};
use sealpost_dns::engine::{Answerer, Engine, PAYLOAD};
use sealpost_dns::record::{Name, Record};
use sealpost_dns::transport::{Asked, Now, Reply, Respond, Via, Worker};
use sealpost_dns::zone::Zone;

/// The same names with both ways to deny.
const ZONES: [&str; 2] = [
    include_str!("../../../dns/tests/zones/nsec-p256.zone"),
    include_str!("../../../dns/tests/zones/nsec3-optout-p256.zone"),
];

thread_local!(static ANSWERERS: RefCell<[Answerer; 2]> = RefCell::new(ZONES.map(answerer)));

fn answerer(text: &str) -> Answerer {
    let mut file = Zonefile::load(&mut text.as_bytes()).expect("text");
    let mut records: Vec<Record> = Vec::new();
    while let Some(line) = file.next_entry().expect("a record") {
        if let Line::Record(record) = line {
            records.push(record.flatten_into());
        }
    }
    let apex: Name = "zone.example".parse().expect("a name");
    let engine = Arc::new(Engine::new(Cookies::new(Secret::random(), None), None, 1));
    let zone = Zone::compile(&apex, &records).expect("a zone");
    engine.served.insert(Entry::Serving(Arc::new(zone)));
    engine.worker()
}

fn read(octets: &[u8]) -> Message<&[u8]> {
    let message = Message::from_octets(octets).expect("a header");
    for section in [message.answer(), message.authority(), message.additional()] {
        section.expect("a section").for_each(|record| drop(record.expect("a record")));
    }
    message
}

fuzz_target!(|input: &[u8]| {
    let Some((which, query)) = input.split_first() else { return };
    let client: SocketAddr = ([192, 0, 2, 1], 53).into();
    ANSWERERS.with_borrow_mut(|answerers| {
        let answerer = &mut answerers[usize::from(which % 2)];
        let mut answer = |via| {
            let asked = Asked { client, via, now: Now { millis: 0, unix: 0 } };
            let mut out = Vec::new();
            (answerer.respond(query, &asked, &mut out), out)
        };
        let (reply, datagram) = answer(Via::Udp);
        let (streamed, stream) = answer(Via::Stream);
        if reply != Reply::Send {
            return;
        }
        assert!(datagram.len() <= usize::from(PAYLOAD));
        let message = read(&datagram);
        assert!(message.header().qr() && datagram[..2] == query[..2]);
        if streamed == Reply::Send {
            assert!(!read(&stream).header().tc());
            assert!(message.header().tc() || datagram == stream);
        }
    });
});
