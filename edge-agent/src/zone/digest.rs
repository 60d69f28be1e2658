//! The digest of a whole zone (ZONEMD, RFC 8976): it also covers what no signature does, such as
//! the delegations and their addresses. Pure.

use aws_lc_rs::digest::{Context, SHA384};
use bytes::Bytes;
use domain::base::Serial;
use domain::base::iana::{Rtype, ZonemdAlgorithm, ZonemdScheme};
use domain::base::name::ToName;
use domain::rdata::Zonemd;
use sealpost_dns::record::{Data, Name, Record};

use super::canonical;

/// Octets of a SHA-384 digest.
const LENGTH: usize = 48;

/// A digest that says nothing yet, so that the chain of names can tell that there will be one.
pub fn placeholder(serial: u32) -> Zonemd<Bytes> {
    zonemd(serial, Bytes::from_static(&[0; LENGTH]))
}

/// The digest of a signed zone in canonical order (scheme SIMPLE, RFC 8976 section 3.3.1). The
/// digest itself and its signatures are left out.
pub fn compute(apex: &Name, serial: u32, sorted: &[Record]) -> Zonemd<Bytes> {
    let mut context = Context::new(&SHA384);
    let mut octets = Vec::new();
    for record in sorted.iter().filter(|record| !is_digest(apex, record)) {
        octets.clear();
        canonical::record(record, &mut octets);
        context.update(&octets);
    }
    zonemd(serial, Bytes::copy_from_slice(context.finish().as_ref()))
}

/// Whether `record` is the digest of the zone or a signature over it.
pub fn is_digest(apex: &Name, record: &Record) -> bool {
    let covers = match record.data() {
        Data::Rrsig(rrsig) => rrsig.type_covered(),
        _ => record.rtype(),
    };
    covers == Rtype::ZONEMD && record.owner().name_eq(apex)
}

fn zonemd(serial: u32, digest: Bytes) -> Zonemd<Bytes> {
    Zonemd::new(Serial(serial), ZonemdScheme::SIMPLE, ZonemdAlgorithm::SHA384, digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;

    /// RFC 8976 appendix A.1.
    #[test]
    fn the_simple_zone_of_the_rfc() {
        let zone = canonical::sort(records(
            "example.",
            "example. 86400 IN NS ns1.example.\nexample. 86400 IN NS ns2.example.\n\
             ns1.example. 3600 IN A 203.0.113.63\nns2.example. 3600 IN AAAA 2001:db8::63\n\
             example. 86400 IN SOA ns1.example. admin.example. 2018031900 1800 900 604800 86400\n",
        ));
        let digest = compute(&"example.".parse().unwrap(), 2_018_031_900, &zone);
        assert_eq!(
            digest.to_string().to_ascii_lowercase().replace([' ', '(', ')'], ""),
            "201803190011\
             c68090d90a7aed716bc459f9340e3d7c1370d4d24b7e2fc3a1ddc0b9a87153b9\
             a9713b3c9ae5cc27777f98b8e730044c"
        );
    }
}
