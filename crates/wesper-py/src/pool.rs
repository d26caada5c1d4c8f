//! Memory of batches that NumPy has let go of, used again: to touch fresh pages costs more than to encrypt into them.

use std::sync::{Arc, Mutex, PoisonError};

/// Pieces that a pool keeps.
const MAX_PIECES: usize = 8;
/// Octets that a pool keeps, in all pieces.
const MAX_OCTETS: usize = 16 << 20;

/// Memory that waits for the next batch, the last used on top: it may still be in a cache.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// Hands out memory of some length, of none if there is no more.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes memory back; what is too much is freed.
    fn give(&self, memory: Vec<u8>) {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let octets = pieces.iter().map(Vec::capacity).sum::<usize>() + memory.capacity();
        if pieces.len() < MAX_PIECES && octets <= MAX_OCTETS {
            pieces.push(memory);
        }
    }
}

/// Memory that goes back to its pool when it is no longer held.
pub(crate) struct Lease {
    memory: Vec<u8>,
    pool: Arc<Pool>,
}

impl Lease {
    /// Holds memory, of that pool or new.
    pub(crate) fn new(memory: Vec<u8>, pool: &Arc<Pool>) -> Self {
        Self { memory, pool: Arc::clone(pool) }
    }

    /// The memory.
    pub(crate) fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.memory));
    }
}
