//! Owns all dealings with the cluster: what the pod tells its containers ([`environment`]), the mounted files of its service
//! account ([`service_account`]), and one request to one object ([`client`]). Refuses to decide what is written and when.

pub mod answer;
pub mod client;
pub mod environment;
pub mod service_account;
