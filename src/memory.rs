//! Owns the memory that games' answers are received into: one piece for all probes, made once, so that a probe maps none and
//! gives none back.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// More than a datagram, a file and a status of Minecraft may have. What is never written to is not resident.
pub const BYTES: usize = 128 * 1024;

/// The memory between two probes.
static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Room for [`BYTES`], empty at first, that is kept for the next probe when this one is over.
#[derive(Debug)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// Takes the memory of the last probe.
    pub fn take() -> Self {
        let mut kept = KEPT.lock().map(|mut kept| mem::take(&mut *kept)).unwrap_or_default();
        kept.reserve_exact(BYTES);
        Self(kept)
    }

    /// Takes what was received out. It finds its way back by [`keep`].
    pub fn into_received(mut self) -> Vec<u8> {
        mem::take(&mut self.0)
    }
}

/// Keeps memory that came from here; other memory is freed.
pub fn keep(mut memory: Vec<u8>) {
    if memory.capacity() < BYTES {
        return;
    }
    if let Ok(mut kept) = KEPT.lock() {
        memory.clear();
        *kept = memory;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        keep(mem::take(&mut self.0));
    }
}

impl Deref for Memory {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}
