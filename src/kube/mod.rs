//! Owns all dealings with the cluster: who and where we are ([`account`]), and one write to one object ([`client`]).
//! Refuses to decide what is written and when.

pub mod account;
pub mod client;
