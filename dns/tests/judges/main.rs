//! Judges of what the name server answers, all over real UDP: the Ferret cases, cases of our own
//! for each rule, and signed zones beside NSD and Knot, which must agree.
//!
//! Every judge is tried on NSD and Knot too, where they can be had: a judge that they fail is wrong.

mod cases;
mod client;
mod contestants;
mod delv;
mod ferret;
mod master_file;
mod message;
mod ours;
mod presentation;
mod signed;
