//! The PROXY protocol header that tells the mail server who the sender is.

use std::net::SocketAddr;

use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};
use sealpost_tunnel::StreamHeader;

use crate::config::Proxy;

/// The octets to send before anything else; none with [`Proxy::None`].
pub fn encode(proxy: Proxy, header: &StreamHeader) -> Vec<u8> {
    let (client, local) = same_family(header.client, header.local);
    let addresses = ProxiedAddress::stream(client, local);
    let mut out = Vec::new();
    let encoded = match proxy {
        Proxy::None => return out,
        Proxy::V1 => ProxyHeader::with_address(addresses).encode_v1(&mut out),
        Proxy::V2 => {
            // The session in the mail server's log too, where the server writes it there.
            let session = header.session.to_string();
            let mut tlvs = vec![Tlv::UniqueId(session.as_bytes().into())];
            if let Some(sni) = header.sni() {
                tlvs.push(Tlv::Authority(sni.as_str().into()));
            }
            ProxyHeader::with_tlvs(Some(addresses), tlvs).encode_v2(&mut out)
        }
    };
    encoded.expect("two addresses of one family and short fields fit");
    out
}

/// The protocol has one family for both ends; relays send nothing else, but a hostile one may.
fn same_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let v6 = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 => v6,
    };
    if client.is_ipv4() == local.is_ipv4() { (client, local) } else { (v6(client), v6(local)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_header::ParseConfig;
    use sealpost_tunnel::{Carries, EhloName, ServiceName, SessionId};

    fn header(client: &str, local: &str) -> StreamHeader {
        StreamHeader {
            service: ServiceName::smtp(),
            client: client.parse().unwrap(),
            local: local.parse().unwrap(),
            session: SessionId([1; 8]),
            carries: Carries::FromTls {
                sni: Some("mx.home.example".parse().unwrap()),
                ehlo: EhloName::default(),
            },
        }
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        let out = encode(Proxy::V1, &header("192.0.2.1:4000", "198.51.100.1:25"));
        assert_eq!(out, b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 25\r\n");
    }

    #[test]
    fn version_2_carries_the_session_and_the_name() {
        let out = encode(Proxy::V2, &header("[2001:db8::1]:4000", "[2001:db8::2]:25"));
        let (parsed, taken) = ProxyHeader::parse(&out, ParseConfig::default()).unwrap();
        assert_eq!(taken, out.len());
        assert_eq!(parsed.unique_id(), Some(&b"0101010101010101"[..]));
        assert_eq!(parsed.authority(), Some("mx.home.example"));
        assert_eq!(parsed.proxied_address().unwrap().source, "[2001:db8::1]:4000".parse().unwrap());
    }

    #[test]
    fn no_header_is_no_octet_and_mixed_families_do_not_panic() {
        assert!(encode(Proxy::None, &header("192.0.2.1:1", "192.0.2.2:25")).is_empty());
        let mixed = header("192.0.2.1:1", "[2001:db8::2]:25");
        assert!(encode(Proxy::V1, &mixed).starts_with(b"PROXY TCP6 ::ffff:192.0.2.1 "));
        assert!(!encode(Proxy::V2, &mixed).is_empty());
    }
}
