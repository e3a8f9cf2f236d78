//! The tests' own stand-ins for the API server and the game, without the dependencies that only tests need.

#![allow(dead_code, unreachable_pub, reason = "the demo calls a part of what the tests need")]

#[path = "../../../tests/support/api_server.rs"]
pub mod api_server;
pub mod certificates;
#[path = "../../../tests/support/game.rs"]
pub mod game;
#[path = "../../../tests/support/listener.rs"]
pub mod listener;
#[path = "../../../tests/support/merge_patch.rs"]
pub mod merge_patch;
#[path = "../../../tests/support/objects.rs"]
pub mod objects;
#[path = "../../../tests/support/wire.rs"]
pub mod wire;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
