//! Makes sure that what a store answers is as long as it says.
//!
//! A body that ends early without an error would pass for the object. A commit that is cut off behind one of its lines
//! still reads well: files that it adds would not be known, and a sweep deletes what is not known. Clients are expected
//! to notice, but rows must not depend on it.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use std::fmt;
use std::sync::Arc;

/// Another store whose reads are whole or fail.
#[derive(Debug)]
pub(crate) struct WholeReads {
    inner: Arc<dyn ObjectStore>,
}

impl WholeReads {
    pub(crate) fn of(inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(WholeReads { inner })
    }
}

impl fmt::Display for WholeReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The same bytes, and an error if they end before all that are `missing` came.
fn counted(
    bytes: BoxStream<'static, Result<Bytes>>,
    missing: u64,
    location: Path,
) -> BoxStream<'static, Result<Bytes>> {
    let next = |(mut bytes, missing, location): (BoxStream<'static, Result<Bytes>>, u64, Path)| async move {
        match bytes.try_next().await? {
            Some(chunk) => {
                let missing = missing.saturating_sub(chunk.len() as u64);
                Ok(Some((chunk, (bytes, missing, location))))
            }
            None if missing > 0 => {
                let source = format!("the answer for {location} ended {missing} bytes early").into();
                Err(object_store::Error::Generic { store: "lake", source })
            }
            None => Ok(None),
        }
    };
    futures::stream::try_unfold((bytes, missing, location), next).boxed()
}

#[async_trait]
impl ObjectStore for WholeReads {
    // `get_ranges` is not passed on: as the trait has it, it is made of `get_opts`, which counts.
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let answer = self.inner.get_opts(location, options).await?;
        let missing = answer.range.end - answer.range.start;
        let payload = match answer.payload {
            GetResultPayload::Stream(bytes) if !is_head => {
                GetResultPayload::Stream(counted(bytes, missing, location.clone()))
            }
            // Reading a file that is shorter fails by itself.
            payload => payload,
        };
        Ok(GetResult { payload, ..answer })
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fault, FaultyStore, Op};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_read_that_ends_early_is_an_error() {
        let faults = FaultyStore::new(Arc::new(InMemory::new()));
        let store = WholeReads::of(Arc::new(faults.clone()));
        let path = Path::from("a");
        store.put(&path, "abcd".into()).await.unwrap();
        faults.inject(Op::Get, "", Fault::Truncate, 3);
        assert!(store.get(&path).await.unwrap().bytes().await.is_err());
        assert!(store.get_range(&path, 1..4).await.is_err());
        let error = store.get_ranges(&path, &[0..1, 3..4]).await.unwrap_err();
        assert!(error.to_string().contains("ended 2 bytes early"), "{error}");
        assert_eq!(store.get_ranges(&path, &[0..1, 3..4]).await.unwrap(), ["a", "d"]);
        assert_eq!(store.head(&path).await.unwrap().size, 4);
    }
}
