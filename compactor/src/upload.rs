//! Stores a file while it is being written.
//!
//! A small file is stored whole, put-if-absent. A large one goes part by part, for which stores offer no put-if-absent:
//! the name is random, so there is nothing that it could overwrite (invariant I4).

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};
use std::sync::Arc;

/// Parts that are under way while the next one fills.
const IN_FLIGHT: usize = 2;

pub(crate) struct Upload {
    store: Arc<dyn ObjectStore>,
    location: Path,
    part_bytes: usize,
    state: State,
    bytes: u64,
}

enum State {
    Small(Vec<Bytes>),
    Large(WriteMultipart),
}

impl Upload {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, location: Path, part_bytes: usize) -> Upload {
        Upload { store, location, part_bytes, state: State::Small(Vec::new()), bytes: 0 }
    }

    /// Takes the next bytes; waits while too many are under way.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> object_store::Result<()> {
        self.bytes += bytes.len() as u64;
        match &mut self.state {
            State::Small(chunks) => {
                chunks.push(bytes);
                if self.bytes >= self.part_bytes as u64 {
                    let chunks = std::mem::take(chunks);
                    self.start_parts(chunks).await?;
                }
                Ok(())
            }
            State::Large(parts) => send(parts, bytes, self.part_bytes).await,
        }
    }

    async fn start_parts(&mut self, chunks: Vec<Bytes>) -> object_store::Result<()> {
        let upload = self.store.put_multipart(&self.location).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, self.part_bytes);
        for chunk in chunks {
            send(&mut parts, chunk, self.part_bytes).await?;
        }
        self.state = State::Large(parts);
        Ok(())
    }

    /// Makes the file appear. Returns its size.
    pub(crate) async fn finish(self) -> object_store::Result<u64> {
        match self.state {
            State::Small(chunks) => {
                let payload = PutPayload::from_iter(chunks);
                let stored = self.store.put_opts(&self.location, payload, PutOptions::from(PutMode::Create)).await;
                match stored {
                    // The name is random, so the object is ours: an answer was lost, and the client tried again.
                    Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(self.bytes),
                    Err(error) => Err(error),
                }
            }
            State::Large(parts) => parts.finish().await.map(|_| self.bytes),
        }
    }

    /// Gives up: parts that were stored are taken back.
    pub(crate) async fn abort(self) -> object_store::Result<()> {
        match self.state {
            State::Small(_) => Ok(()),
            State::Large(parts) => parts.abort().await,
        }
    }
}

/// Hands over a part at a time, so that no more than the allowed number waits in memory.
async fn send(parts: &mut WriteMultipart, bytes: Bytes, part_bytes: usize) -> object_store::Result<()> {
    for piece in bytes.chunks(part_bytes) {
        parts.wait_for_capacity(IN_FLIGHT).await?;
        // Copied: a slice would keep the whole row group in memory until its last byte is stored.
        parts.write(piece);
    }
    Ok(())
}
