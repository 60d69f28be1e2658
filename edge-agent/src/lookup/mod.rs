//! Asks name servers and resolvers of the internet what they say about a domain, as strangers who
//! send mail would hear it.
//!
//! [`message`] and [`exchange`] ask one server one question. [`delegation`] finds who serves a zone
//! and its parent, and [`survey`] asks them all at once. What comes back is other people's word:
//! nothing here decides by it, and who shows it makes it printable. [`validated`] has what is proved by
//! signatures.

pub mod delegation;
pub mod exchange;
pub mod message;
pub mod resolvers;
pub mod survey;
pub mod validated;
