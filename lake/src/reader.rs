//! Reads a Parquet file of a lake: ranges of an object whose size is known.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// The end of a file that is fetched at once: nearly every footer fits.
const FOOTER_BYTES: u64 = 64 << 10;

/// Files up to this size are fetched in one request and kept while they are open.
const WHOLE_BYTES: u64 = 512 << 10;

/// An object, for Parquet's readers.
#[derive(Debug, Clone)]
pub struct FileReader {
    store: Arc<dyn ObjectStore>,
    location: Path,
    size: u64,
    whole: Option<Bytes>,
}

impl FileReader {
    /// Fetches the object if it is small.
    pub async fn open(store: Arc<dyn ObjectStore>, location: Path, size: u64) -> Result<FileReader, ParquetError> {
        if size == 0 {
            // A store would be asked for no bytes at all, and refuse that in words of its own.
            return Err(ParquetError::EOF(format!("{location} is empty")));
        }
        let mut reader = FileReader { store, location, size, whole: None };
        if size <= WHOLE_BYTES {
            reader.whole = Some(reader.get_bytes(0..size).await?);
        }
        Ok(reader)
    }

    /// Bytes that it keeps in memory.
    pub fn held(&self) -> u64 {
        self.whole.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }

    fn slice(&self, range: &Range<u64>) -> Option<Bytes> {
        let whole = self.whole.as_ref()?;
        (range.end <= whole.len() as u64).then(|| whole.slice(range.start as usize..range.end as usize))
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            match self.slice(&range) {
                Some(bytes) => Ok(bytes),
                None => self.store.get_range(&self.location, range).await.map_err(external),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            match ranges.iter().map(|range| self.slice(range)).collect() {
                Some(slices) => Ok(slices),
                None => self.store.get_ranges(&self.location, &ranges).await.map_err(external),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(Some(size.min(FOOTER_BYTES) as usize));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
