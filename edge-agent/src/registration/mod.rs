//! This box at its relays: joining, leaving, domains, keys. The commands use it; nothing here
//! prints.
//!
//! [`ask`] connects to one relay and asks it, `succession` and [`pins`] follow a relay that
//! changed its key, [`keys`] are the box's own. [`config_file`] changes the owner's file by way of
//! [`edit`] and [`template`]. [`domain`] reads what people type, [`mx_names`] and [`mx_set`] decide
//! which names lead to which addresses, [`records`] writes what is published, [`recovery`] decides
//! what is done for a recovery kit.

pub mod ask;
pub mod claim;
pub mod config_file;
pub mod domain;
pub mod edit;
pub mod keys;
pub mod mx_names;
pub mod mx_set;
pub mod pins;
pub mod place;
pub mod records;
pub mod recovery;
pub(crate) mod succession;
pub mod template;
