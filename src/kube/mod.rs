//! Owns all dealings with the cluster: what the pod gives its container ([`environment`]), and one request to one object
//! ([`client`]). Refuses to decide what is written and when.

pub mod answer;
pub mod client;
pub mod environment;
