//! Small zones for tests.

use domain::base::Record as AnyRecord;
use domain::zonefile::inplace::{Entry, Zonefile};

use crate::record::{Name, Record};

/// A name from text.
pub(crate) fn name(text: &str) -> Name {
    Name::bytes_from_str(text).unwrap()
}

/// Records from text, with owners below `example.org`.
pub(crate) fn records(text: &str) -> Vec<Record> {
    let mut file = Zonefile::from(text);
    file.set_origin(name("example.org"));
    let mut out = Vec::new();
    while let Some(entry) = file.next_entry().unwrap() {
        if let Entry::Record(record) = entry {
            let (owner, data) = (record.owner().clone(), record.data().clone());
            use domain::base::name::FlattenInto;
            out.push(AnyRecord::new(
                owner.flatten_into(),
                record.class(),
                record.ttl(),
                data.flatten_into(),
            ));
        }
    }
    out
}

/// The SOA record of `example.org`.
pub(crate) fn soa(serial: u32) -> Record {
    let text = format!(
        "example.org. 3600 IN SOA ns.example.org. Host.example.org. {serial} 14400 3600 1814400 300\n"
    );
    records(&text).remove(0)
}

/// A zone with `hosts` hosts.
pub(crate) fn zone(serial: u32, hosts: usize) -> Vec<Record> {
    let mut out = vec![soa(serial)];
    out.extend(records("example.org. 3600 IN NS NS.Example.org.\n"));
    for host in 0..hosts {
        out.extend(records(&format!(
            "Host-{host}.example.org. 300 IN A 192.0.2.{}\nHost-{host}.example.org. 300 IN TXT \"{}\"\n",
            host % 256,
            "x".repeat(200)
        )));
    }
    out
}
