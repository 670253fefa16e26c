//! A file of the store, on this machine: the object itself if the store is a directory, or else a copy of it that has no
//! name and is gone when nobody reads it any more, be it for a kill -9.
//!
//! A merge reads many files side by side, a page of each column at a time. Asked of a store these would be thousands of
//! small requests, and the files, if they were kept in memory, would be most of what a merge takes. So a store is asked
//! once for each file, and its disk space is all that grows with the size of a merge.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Read ahead where the length of what comes is not known: the header of a page.
const AHEAD: usize = 1 << 10;

/// An open file of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    file: Arc<File>,
    size: u64,
}

impl Fetched {
    /// Asks the store for an object of `size` bytes. Copies lie in the directory for temporary files.
    pub(crate) async fn get(store: &dyn ObjectStore, location: &Path, size: u64) -> Result<Fetched, ParquetError> {
        let answer = store.get(location).await.map_err(external)?;
        let stored = answer.meta.size;
        let (file, found) = match answer.payload {
            GetResultPayload::File(file, _) => (file, stored),
            GetResultPayload::Stream(mut parts) => {
                let (mut copy, mut found) = (tempfile::tempfile().map_err(temporary)?, 0);
                while let Some(part) = parts.try_next().await.map_err(external)? {
                    copy.write_all(&part).map_err(temporary)?;
                    found += part.len() as u64;
                }
                (copy, found)
            }
        };
        // A torn answer must not be taken for a damaged file.
        if found != size {
            return Err(ParquetError::EOF(format!("{found} bytes of {size}")));
        }
        Ok(Fetched { file: Arc::new(file), size })
    }

    /// A file that was written here.
    pub(crate) fn of(file: File) -> io::Result<Fetched> {
        let size = file.metadata()?.len();
        Ok(Fetched { file: Arc::new(file), size })
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Not the file's fault either: it may be read later.
fn temporary(error: io::Error) -> ParquetError {
    let place = std::env::temp_dir().display().to_string();
    ParquetError::External(format!("copy to a temporary file in {place}: {error}").into())
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Fetched {
    type T = BufReader<Reading>;

    fn get_read(&self, start: u64) -> Result<BufReader<Reading>, ParquetError> {
        Ok(BufReader::with_capacity(AHEAD, Reading { file: Arc::clone(&self.file), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// The bytes from a position on; others may read the file at the same time.
#[derive(Debug)]
pub(crate) struct Reading {
    file: Arc<File>,
    position: u64,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::PutPayload;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn an_object_is_read_where_it_lies_or_from_a_copy_and_never_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalFileSystem::new_with_prefix(directory.path()).unwrap();
        let stores: [&dyn ObjectStore; 2] = [&local, &InMemory::new()];
        for store in stores {
            let location = Path::from("object");
            store.put(&location, PutPayload::from_static(b"0123456789")).await.unwrap();
            let fetched = Fetched::get(store, &location, 10).await.unwrap();
            store.delete(&location).await.unwrap();
            assert_eq!(fetched.get_bytes(3, 4).unwrap(), "3456");
            let (mut one, mut other) = (fetched.get_read(8).unwrap(), fetched.get_read(0).unwrap());
            let mut rest = String::new();
            other.read_exact(&mut [0; 3]).unwrap();
            one.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "89");
            assert!(fetched.get_bytes(8, 3).is_err());

            store.put(&location, PutPayload::from_static(b"012345678")).await.unwrap();
            assert!(matches!(Fetched::get(store, &location, 10).await, Err(ParquetError::EOF(_))));
        }
    }
}
