//! okg-sidecar probes the game server in its own pod and sets `spec.opsState` of the pod's GameServer, so that
//! OpenKruiseGame scales down the right servers where no node daemon can tell it which those are.
//!
//! Data flows one way: config ([`config`]) -> a probe is due ([`decide::schedule`]) -> document -> result -> outcome ([`probe`]) ->
//! opinion ([`decide::opinion`]) -> decision ([`decide::decision`]) -> write ([`decide::guarded`], [`decide::exclusive`]) ->
//! acknowledgement ([`kube`]). [`controller`] joins the middle, and [`sidecar`] is the loop that moves it. Numbers in
//! comments such as (behaviour 4.6) are those of docs/behaviour.md.

pub mod config;
pub mod controller;
pub mod decide;
pub mod dry_run;
pub mod excerpt;
pub mod http_client;
pub mod jitter;
pub mod json;
pub mod kube;
pub mod memory;
pub mod net;
pub mod probe;
pub mod process;
pub mod report;
pub mod sidecar;
pub mod signals;
