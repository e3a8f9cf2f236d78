//! A real control plane on loopback, etcd and kube-apiserver, for the end-to-end tests and the scale script: started as
//! child processes with certificates, keys and tokens of this run alone, and gone with it. No controller, scheduler or
//! kubelet runs, so whoever uses it makes the objects that those would make.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each user compiles this module for itself and calls a part of it"
)]
#![allow(clippy::panic, reason = "a panic is how a test fails")]

pub mod assets;
pub mod client;
pub mod daemon;
pub mod gate;
pub mod kustomize;
pub mod manifest;
pub mod server;
pub mod stage;

pub use self::assets::Assets;
pub use self::client::{Answer, Client};
pub use self::daemon::Daemon;
pub use self::gate::Gate;
pub use self::server::{ControlPlane, Options};
pub use self::stage::Stage;
