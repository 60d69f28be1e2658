//! What stands in front of the bytes of every stream that a relay opens, and of those that an agent
//! opens for DNS.
//!
//! ```text
//! version       1 octet: 1, 2 for a stream that carries a connection from its first byte, or 3 for DNS
//! length        2 octets, of everything that follows
//! session id    8 octets
//!   of versions 1 and 2 alone:
//! client        1 octet 4 or 6, address of 4 or 16 octets, port of 2
//! local         the same: the address at the relay that the client connected to
//! service       1 octet length, then text
//!   of version 1 alone:
//! SNI           the same; empty when the sender named nobody
//! EHLO name     the same
//! ```
//!
//! Numbers are in network byte order. The fields are their version's; a field more needs a new
//! version, which a relay uses only with an agent that said it knows it ([`crate::control`]):
//! version 2 with one that said [`TRANSPARENT`](crate::control::TRANSPARENT). There the relay has
//! read nothing of what the sender says, so it has no names to tell.
//!
//! Behind a header of version 3 come DNS messages as over TCP (RFC 1035 section 4.2.2): a relay that
//! serves zones asks an agent that said [`OFFERS_ZONES`](crate::control::OFFERS_ZONES) for its zones,
//! and an agent tells a relay that said [`SERVES_ZONES`](crate::control::SERVES_ZONES) of new ones. It
//! begins with another octet than a request of an agent, which is `{`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::names::{EhloName, MxName, ServiceName, SessionId};

/// The version of a stream that begins with the ClientHello.
pub const VERSION_FROM_TLS: u8 = 1;
/// The version of a stream that carries a connection from its first byte.
pub const VERSION_FROM_FIRST_BYTE: u8 = 2;
/// The version of a stream that carries DNS messages.
pub const VERSION_DNS: u8 = 3;
/// The longest encoded header in octets: every field at its longest.
pub const MAX_ENCODED: usize = FIXED + 8 + 2 * (1 + 16 + 2) + 3 * (1 + 255);
/// Version and length.
const FIXED: usize = 3;
/// The octets of a header of [`VERSION_DNS`].
pub const DNS_HEADER: usize = FIXED + 8;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// It carries a sender's connection.
    Connection(StreamHeader),
    /// It carries DNS messages; the name is for the logs of both ends.
    Dns(SessionId),
}

impl Opening {
    /// The header as octets, at most [`MAX_ENCODED`].
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connection(header) => header.encode(),
            Self::Dns(session) => [&[VERSION_DNS, 0, 8][..], &session.0].concat(),
        }
    }

    /// Reads a header from the beginning of `buffer`: the header and the octets it took, or
    /// `None` while more octets are needed (never when `buffer` has [`MAX_ENCODED`]).
    pub fn decode(buffer: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        if buffer.first() != Some(&VERSION_DNS) {
            let decoded = StreamHeader::decode(buffer)?;
            return Ok(decoded.map(|(header, taken)| (Self::Connection(header), taken)));
        }
        let Some(length) = buffer.get(1..FIXED) else {
            return Ok(None);
        };
        let end = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
        match end {
            ..DNS_HEADER => return Err(HeaderError::Short),
            DNS_HEADER => {}
            _ => return Err(HeaderError::Trailing(end - DNS_HEADER)),
        }
        let session = buffer.get(FIXED..DNS_HEADER).and_then(|session| session.try_into().ok());
        Ok(session.map(|session| (Self::Dns(SessionId(session)), DNS_HEADER)))
    }
}

/// Who is at the other end of a stream, as the relay tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// Which of the agent's services the stream is for.
    pub service: ServiceName,
    /// The sender's address and port.
    pub client: SocketAddr,
    /// The relay's address and port that the sender connected to.
    pub local: SocketAddr,
    /// Names the session in the logs of both ends.
    pub session: SessionId,
    /// How much of the connection the stream carries.
    pub carries: Carries,
}

/// How much of a sender's connection a stream carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carries {
    /// What comes behind STARTTLS: the relay has greeted, and the first byte is the ClientHello's.
    FromTls {
        /// The name in the sender's ClientHello, if it gave a usable one.
        sni: Option<MxName>,
        /// What the sender said in EHLO; may be empty.
        ehlo: EhloName,
    },
    /// All of it: the mail server at home greets.
    FromFirstByte,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Of a version that this program does not know.
    #[error("stream header of version {0}, but only {VERSION_FROM_TLS} to {VERSION_DNS} are known")]
    Version(u8),
    /// The length is more than any header has.
    #[error("stream header of {0} octets, but none has more than {MAX_ENCODED}")]
    TooLong(usize),
    /// A field reaches beyond the length.
    #[error("stream header ends inside a field")]
    Short,
    /// Octets are left behind the last field.
    #[error("stream header with {0} octets behind its last field")]
    Trailing(usize),
    /// An address of neither IPv4 nor IPv6.
    #[error("stream header with an address of unknown family {0}")]
    Family(u8),
    /// A name that is none.
    #[error("stream header with an invalid {0}")]
    Name(&'static str),
}

impl StreamHeader {
    /// The header as octets, at most [`MAX_ENCODED`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.carries.version(), 0, 0];
        out.extend_from_slice(&self.session.0);
        put_address(&mut out, self.client);
        put_address(&mut out, self.local);
        put_text(&mut out, self.service.as_str());
        if let Carries::FromTls { sni, ehlo } = &self.carries {
            put_text(&mut out, sni.as_ref().map_or("", MxName::as_str));
            put_text(&mut out, ehlo.as_str());
        }
        let length = u16::try_from(out.len() - FIXED).expect("bounded by MAX_ENCODED");
        out[1..FIXED].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// Reads a header from the beginning of `buffer`: the header and the octets it took, or
    /// `None` while more octets are needed (never when `buffer` has [`MAX_ENCODED`]).
    pub fn decode(buffer: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        let version = match buffer.first() {
            None => return Ok(None),
            Some(&known @ (VERSION_FROM_TLS | VERSION_FROM_FIRST_BYTE)) => known,
            Some(&other) => return Err(HeaderError::Version(other)),
        };
        let Some(length) = buffer.get(1..FIXED) else {
            return Ok(None);
        };
        let end = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if end > MAX_ENCODED {
            return Err(HeaderError::TooLong(end));
        }
        let Some(body) = buffer.get(FIXED..end) else {
            return Ok(None);
        };
        Self::decode_fields(version, body).map(|header| Some((header, end)))
    }

    fn decode_fields(version: u8, body: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = body;
        let session = SessionId(take_array(&mut rest)?);
        let client = take_address(&mut rest)?;
        let local = take_address(&mut rest)?;
        let service = take_text(&mut rest)?;
        let carries = match version {
            VERSION_FROM_TLS => Carries::decode_names(&mut rest)?,
            _ => Carries::FromFirstByte,
        };
        if !rest.is_empty() {
            return Err(HeaderError::Trailing(rest.len()));
        }
        let service =
            text(service, "service")?.parse().map_err(|_| HeaderError::Name("service"))?;
        Ok(Self { service, client, local, session, carries })
    }

    /// The name in the sender's ClientHello, where the relay has seen one.
    pub fn sni(&self) -> Option<&MxName> {
        match &self.carries {
            Carries::FromTls { sni, .. } => sni.as_ref(),
            Carries::FromFirstByte => None,
        }
    }
}

impl Carries {
    fn version(&self) -> u8 {
        match self {
            Self::FromTls { .. } => VERSION_FROM_TLS,
            Self::FromFirstByte => VERSION_FROM_FIRST_BYTE,
        }
    }

    fn decode_names(rest: &mut &[u8]) -> Result<Self, HeaderError> {
        let sni = match text(take_text(rest)?, "SNI")? {
            "" => None,
            name => {
                let parsed: MxName = name.parse().map_err(|_| HeaderError::Name("SNI"))?;
                // One name has one spelling here, so that encoding is the inverse of decoding.
                Some(parsed)
                    .filter(|p| p.as_str() == name)
                    .ok_or(HeaderError::Name("SNI"))
                    .map(Some)?
            }
        };
        let said = take_text(rest)?;
        let ehlo = EhloName::cleaned(said);
        if ehlo.as_str().as_bytes() != said {
            return Err(HeaderError::Name("EHLO name"));
        }
        Ok(Self::FromTls { sni, ehlo })
    }
}

fn text<'a>(octets: &'a [u8], field: &'static str) -> Result<&'a str, HeaderError> {
    std::str::from_utf8(octets).map_err(|_| HeaderError::Name(field))
}

fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("names have at most 255 octets"));
    out.extend_from_slice(text.as_bytes());
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], HeaderError> {
    rest.split_off(..count).ok_or(HeaderError::Short)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], HeaderError> {
    take(rest, N)?.try_into().map_err(|_| HeaderError::Short)
}

fn take_address(rest: &mut &[u8]) -> Result<SocketAddr, HeaderError> {
    let [family] = take_array(rest)?;
    let ip: IpAddr = match family {
        4 => Ipv4Addr::from(take_array::<4>(rest)?).into(),
        6 => Ipv6Addr::from(take_array::<16>(rest)?).into(),
        other => return Err(HeaderError::Family(other)),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(take_array(rest)?)))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], HeaderError> {
    let [length] = take_array(rest)?;
    take(rest, usize::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<(Ipv4Addr, u16)>().prop_map(|(ip, port)| (ip, port).into()),
            any::<(Ipv6Addr, u16)>().prop_map(|(ip, port)| (ip, port).into()),
        ]
    }

    fn carries() -> impl Strategy<Value = Carries> {
        let sni = proptest::option::of("[a-z]{1,60}(\\.[a-z]{1,60}){1,3}");
        let from_tls = (sni, "[!-~]{0,255}").prop_map(|(sni, ehlo)| Carries::FromTls {
            sni: sni.map(|name| name.parse().unwrap()),
            ehlo: EhloName::cleaned(ehlo.as_bytes()),
        });
        prop_oneof![3 => from_tls, 1 => Just(Carries::FromFirstByte)]
    }

    prop_compose! {
        fn header()(
            service in "[a-z0-9-]{1,32}",
            client in address(),
            local in address(),
            session in any::<[u8; 8]>(),
            carries in carries(),
        ) -> StreamHeader {
            StreamHeader {
                service: service.parse().unwrap(),
                client,
                local,
                session: SessionId(session),
                carries,
            }
        }
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire(header in header(), behind in any::<Vec<u8>>()) {
            let encoded = header.encode();
            prop_assert!(encoded.len() <= MAX_ENCODED);
            let wire = [&encoded[..], &behind].concat();
            let opening = Opening::Connection(header.clone());
            prop_assert_eq!(Opening::decode(&wire), Ok(Some((opening, encoded.len()))));
            prop_assert_eq!(StreamHeader::decode(&wire), Ok(Some((header, encoded.len()))));
        }

        #[test]
        fn every_prefix_asks_for_more(header in header()) {
            let encoded = header.encode();
            for end in 0..encoded.len() {
                prop_assert_eq!(StreamHeader::decode(&encoded[..end]), Ok(None));
            }
        }

        #[test]
        fn every_split_gives_the_same_header(header in header(), behind in any::<[u8; 4]>()) {
            let wire = [&header.encode()[..], &behind].concat();
            for split in 0..=wire.len() {
                let mut buffer = wire[..split].to_vec();
                let first = StreamHeader::decode(&buffer).unwrap();
                buffer.extend_from_slice(&wire[split..]);
                let whole = StreamHeader::decode(&buffer).unwrap();
                prop_assert!(first.is_none() || first == whole);
                prop_assert_eq!(whole.map(|(h, _)| h), Some(header.clone()));
            }
        }

        #[test]
        fn what_decodes_encodes_to_the_same_octets(noise in proptest::collection::vec(any::<u8>(), 0..900)) {
            if let Ok(Some((header, taken))) = Opening::decode(&noise) {
                prop_assert_eq!(header.encode(), &noise[..taken]);
            }
        }
    }

    fn with(carries: Carries) -> Vec<u8> {
        StreamHeader {
            service: ServiceName::smtp(),
            client: "192.0.2.1:4000".parse().unwrap(),
            local: "[2001:db8::1]:25".parse().unwrap(),
            session: SessionId([7; 8]),
            carries,
        }
        .encode()
    }

    fn sample() -> Vec<u8> {
        with(Carries::FromTls {
            sni: Some("mx.home.example".parse().unwrap()),
            ehlo: EhloName::cleaned(b"mail.sender.example"),
        })
    }

    #[test]
    fn a_connection_from_its_first_byte_comes_with_no_names() {
        let wire = with(Carries::FromFirstByte);
        assert_eq!((wire[0], &wire[wire.len() - 5..]), (2, &b"\x04smtp"[..]));
        // The names of the other version are octets too many here, and missing there.
        let mut named = sample();
        named[0] = 2;
        let names = 1 + "mx.home.example".len() + 1 + "mail.sender.example".len();
        assert_eq!(StreamHeader::decode(&named), Err(HeaderError::Trailing(names)));
        let mut nameless = wire;
        nameless[0] = 1;
        assert_eq!(StreamHeader::decode(&nameless), Err(HeaderError::Short));
    }

    #[test]
    fn a_stream_for_dns_has_a_name_and_nothing_else() {
        let opening = Opening::Dns(SessionId([7; 8]));
        let wire = opening.encode();
        assert_eq!(wire, [3, 0, 8, 7, 7, 7, 7, 7, 7, 7, 7]);
        for end in 0..wire.len() {
            assert_eq!(Opening::decode(&wire[..end]), Ok(None));
        }
        let behind = [&wire[..], b"\0\x0c"].concat();
        assert_eq!(Opening::decode(&behind), Ok(Some((opening, 11))));
        assert_eq!(Opening::decode(&[3, 0, 7]), Err(HeaderError::Short));
        assert_eq!(Opening::decode(&[3, 0, 9]), Err(HeaderError::Trailing(1)));
    }

    #[test]
    fn octets_behind_the_last_field_are_refused() {
        let mut wire = sample();
        wire.push(0);
        let length = u16::try_from(wire.len() - FIXED).unwrap();
        wire[1..3].copy_from_slice(&length.to_be_bytes());
        assert_eq!(StreamHeader::decode(&wire), Err(HeaderError::Trailing(1)));
    }

    #[test]
    fn other_versions_lengths_and_families_are_refused() {
        for version in [0, 3, b'E'] {
            assert_eq!(StreamHeader::decode(&[version]), Err(HeaderError::Version(version)));
        }
        let length = usize::from(u16::MAX) + FIXED;
        assert_eq!(StreamHeader::decode(&[1, 255, 255]), Err(HeaderError::TooLong(length)));
        let mut wire = sample();
        wire[11] = 5;
        assert_eq!(StreamHeader::decode(&wire), Err(HeaderError::Family(5)));
        assert_eq!(StreamHeader::decode(&[1, 0, 2, 0, 0]), Err(HeaderError::Short));
    }

    #[test]
    fn a_name_in_a_second_spelling_is_refused() {
        let wire = sample();
        let at = wire.windows(2).position(|w| w == b"mx").unwrap();
        let mut upper = wire.clone();
        upper[at] = b'M';
        assert_eq!(StreamHeader::decode(&upper), Err(HeaderError::Name("SNI")));
        let mut underscore = wire;
        underscore[at + 1] = b'_';
        assert_eq!(StreamHeader::decode(&underscore), Err(HeaderError::Name("SNI")));
    }
}
