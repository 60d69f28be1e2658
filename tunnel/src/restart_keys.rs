//! What a relay must remember over a restart so that its boxes notice the restart at once.
//!
//! A restarted relay knows none of the old connections. It may answer an old connection's next
//! packet with a stateless reset (RFC 9000 section 10.3), which makes the agent redial within a
//! round trip instead of waiting for the idle timeout; but only if it derives the same reset
//! tokens (reset key) *and* takes the connection ID for one of its own (connection-ID key). The
//! token key lets address-validation tokens (RFC 9000 section 8.1) outlive the restart too.

use std::io;
use std::path::Path;

use aws_lc_rs::hkdf;
use aws_lc_rs::hmac;

use crate::private_file;

const SECRET_BYTES: usize = 32;

/// Three keys derived from one secret on disk.
#[derive(Clone)]
pub struct RestartKeys {
    secret: [u8; SECRET_BYTES],
}

impl RestartKeys {
    /// Reads the secret at `path`, or makes one there (mode 0600) when there is none.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let found = match private_file::read(path)? {
            Some(found) => found,
            None => {
                private_file::create(path, &rand::random::<[u8; SECRET_BYTES]>())?;
                private_file::read(path)?.unwrap_or_default()
            }
        };
        let secret = found.try_into().map_err(|found: Vec<u8>| {
            io::Error::other(format!(
                "it has {} bytes instead of {SECRET_BYTES}; remove it, a new one is made",
                found.len()
            ))
        })?;
        Ok(Self { secret })
    }

    /// Keys that are forgotten with the process.
    pub fn ephemeral() -> Self {
        Self { secret: rand::random() }
    }

    pub(crate) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive::<32>(b"sealpost stateless reset"))
    }

    pub(crate) fn token_key(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(&self.derive::<32>(b"sealpost address validation"))
    }

    pub(crate) fn connection_id_key(&self) -> u64 {
        u64::from_be_bytes(self.derive::<8>(b"sealpost connection id"))
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut out = [0; N];
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(&self.secret)
            .expand(&[label], Length(N))
            .and_then(|okm| okm.fill(&mut out))
            .expect("HKDF-SHA256 yields up to 8160 bytes");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_after_a_restart_and_differ_from_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quic.keys");
        let before = RestartKeys::load_or_create(&path).unwrap();
        let after = RestartKeys::load_or_create(&path).unwrap();
        assert_eq!(before.connection_id_key(), after.connection_id_key());
        assert_ne!(before.derive::<32>(b"a"), before.derive::<32>(b"b"));
        assert_ne!(RestartKeys::ephemeral().connection_id_key(), before.connection_id_key());
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quic.keys");
        private_file::create(&path, b"short").unwrap();
        let error = RestartKeys::load_or_create(&path).err().map(|e| e.to_string());
        assert_eq!(
            error.as_deref(),
            Some("it has 5 bytes instead of 32; remove it, a new one is made")
        );
    }
}
