//! The PROXY header that must come first: who the sender really is.
//!
//! A mail server that takes connections on loopback without one trusts them, and so becomes an
//! open relay for whoever the agent lets through. The sink asks for version 2, as the agent sends
//! by default.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Signature, version, family and length.
const FIXED: usize = 16;

/// Addresses and TLVs of a sane header; the format would allow 64 KiB.
const VARIABLE: usize = 1024;

/// Why a connection has no usable header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// It began with something else.
    #[error("no PROXY v2 header")]
    Absent,
    /// It announced more than anyone needs.
    #[error("a PROXY header of {0} bytes")]
    TooLong(usize),
    /// The connection broke.
    #[error("before the PROXY header: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads exactly the header and returns the client's address, `None` for LOCAL connections.
pub(crate) async fn read_header<R>(stream: &mut R) -> Result<Option<SocketAddr>, ProxyError>
where
    R: AsyncRead + Unpin,
{
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let variable = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if header[0] != b'\r' {
        return Err(ProxyError::Absent);
    }
    if variable > VARIABLE {
        return Err(ProxyError::TooLong(variable));
    }
    header.resize(FIXED + variable, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
    let (parsed, _) = ProxyHeader::parse(&header, config).map_err(|_| ProxyError::Absent)?;
    Ok(parsed.proxied_address().map(|addresses| addresses.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_header::ProxiedAddress;

    fn encoded(header: &ProxyHeader<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).expect("a header");
        bytes
    }

    #[tokio::test]
    async fn names_the_client_and_takes_no_byte_more() {
        let client = "203.0.113.9:4025".parse().expect("an address");
        let own = "198.51.100.7:25".parse().expect("an address");
        let mut bytes = encoded(&ProxyHeader::with_address(ProxiedAddress::stream(client, own)));
        bytes.extend_from_slice(b"EHLO x\r\n");
        let mut stream = &bytes[..];
        assert_eq!(read_header(&mut stream).await.expect("a header"), Some(client));
        assert_eq!(stream, b"EHLO x\r\n");
        let local = encoded(&ProxyHeader::with_local());
        assert_eq!(read_header(&mut &local[..]).await.expect("a header"), None);
    }

    #[tokio::test]
    async fn refuses_a_client_that_just_talks() {
        let spoken = &b"EHLO sender.example\r\n"[..];
        assert!(matches!(read_header(&mut &spoken[..]).await, Err(ProxyError::Absent)));
        let v1 = &b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"[..];
        assert!(matches!(read_header(&mut &v1[..]).await, Err(ProxyError::Absent)));
        let mut huge = encoded(&ProxyHeader::with_local());
        huge[14] = 0xff;
        assert!(matches!(read_header(&mut &huge[..]).await, Err(ProxyError::TooLong(_))));
    }
}
