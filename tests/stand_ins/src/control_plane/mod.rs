//! A real control plane on loopback, etcd and kube-apiserver, for the end-to-end tests and the scale script: started as
//! child processes with certificates, keys and tokens of this run alone, and gone with it. No controller, scheduler or
//! kubelet runs, so whoever uses it makes the objects that those would make.

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
pub use self::server::{CRDS, ControlPlane, Options};
pub use self::stage::Stage;
