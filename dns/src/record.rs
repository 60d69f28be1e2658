//! Records in the form in which all parts of this crate hand them on: owned, with whole names and
//! without compression, in the case in which they came.

use bytes::Bytes;
use domain::rdata::ZoneRecordData;

/// A domain name in wire format (RFC 1035 section 3.1), at most 255 octets.
pub type Name = domain::base::Name<Bytes>;

/// What a record says. Types that are not known are carried as they are (RFC 3597).
pub type Data = ZoneRecordData<Bytes, Name>;

/// A record of a zone.
pub type Record = domain::base::Record<Name, Data>;
