//! All tests of the program but the tables beside the code: README.md in this folder names the module for each clause.

#![allow(clippy::panic, reason = "a panic is how a test fails")]
#![allow(unreachable_pub, reason = "nobody links a test binary, so that pub in a module means this binary")]

mod configs_are_refused;
mod decides;
mod documents;
mod dry_run;
mod e2e;
mod games;
mod main_job;
mod manifests;
mod model;
mod never_wrong;
mod podprobe;
mod properties;
mod reference;
mod support_works;
mod survives_api_server;
mod survives_files;
mod survives_game;
mod survives_process;
