//! okg-sidecar probes the game server in its own pod over HTTP and sets `spec.opsState` of the pod's GameServer, so that
//! OpenKruiseGame scales down the right servers where no node daemon can tell it which those are.
//!
//! Data flows one way: file -> [`config::Config`] -> a round is due ([`decide::schedule`]) -> [`probe`] -> reading ->
//! opinion ([`decide::tracker`]) -> decision ([`decide::patch`]) -> pending write ([`decide::pending`]) -> [`kube`] ->
//! acknowledgement. [`sidecar`] is the loop that moves it.

pub mod config;
pub mod decide;
pub mod excerpt;
pub mod http;
pub mod jitter;
pub mod kube;
pub mod probe;
pub mod process;
