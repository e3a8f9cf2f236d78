//! All tests of the program but the tables beside the code: README.md in this folder names the module for each clause.

#![allow(clippy::panic, reason = "a panic is how a test fails")]
#![allow(unreachable_pub, reason = "nobody links a test binary, so that pub in a module means this binary")]

mod alerts;
mod beside_the_game;
mod command_line;
mod configuration;
mod deciding;
mod documents;
mod e2e;
mod environment;
mod games;
mod hostile_answers;
mod kruise_probes;
mod main_job;
mod manifests;
mod model;
mod more_than_ops_state;
mod never_wrong;
mod probing;
mod properties;
mod reference;
mod running;
mod service_account;
mod stand_ins_work;
mod steps;
mod writing;
