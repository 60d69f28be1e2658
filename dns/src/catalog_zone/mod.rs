//! Catalog zones (RFC 9432): a list of zones that is itself a zone, so that servers learn by the transfers
//! that they make anyway which zones they are to have.
//!
//! A catalog decides what a server serves, so it is had and given by a key, and no plain query is answered
//! from one. Whose keys sign the zones that it names is still looked at in each of them.

pub(crate) mod edition;
pub(crate) mod membership;
pub mod producer;
pub mod read;
pub(crate) mod touched;

pub use edition::exercise;

/// Under it are the members (section 4.1).
const ZONES: &str = "zones";
/// Where the version of the scheme is (section 4.3.1).
const VERSION_LABEL: &str = "version";
/// The only version of the scheme that there is.
const VERSION: &[u8] = b"2";
/// Names the catalog that a member is to go to (section 4.4.1).
const COO: &str = "coo";
