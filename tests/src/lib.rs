//! The harness of the whole-system tests: small machines made of Linux namespaces, real mail
//! servers in them, and the real `sealpost-relay` and `sealpost-agent` between them.
//!
//! A scenario (`tests/tests/*.rs`) is a [`scene::Scene`] and what is proved in it. Nothing here
//! touches the machine that runs the tests: every file a mail server writes lies in a tmpfs that
//! vanishes with its namespace, and every process ends with the machine it runs on.

pub mod admin;
pub mod certificate;
pub mod clock;
pub mod crowd;
pub mod dns;
pub mod exim;
pub mod haraka;
pub mod home;
mod keeper;
pub mod log;
pub mod machine;
pub mod mailbox;
pub mod message;
pub mod name_server;
pub mod network;
pub mod nsd;
pub mod opensmtpd;
pub mod packages;
pub mod pebble;
mod plays;
pub mod postfix;
pub mod postgres;
pub mod process;
pub mod processors;
pub mod programs;
pub mod scene;
pub mod sealpost;
pub mod sender;
pub mod sendmail;
pub mod signed_internet;
pub mod slow_home;
pub mod small_disk;
pub mod smtp;
pub mod tls_client;
pub mod unbound;
pub mod wait;
pub mod zones;
