//! A store that fails on demand, for tests of everything that writes to or reads from a lake.
//!
//! Faults are given in advance, by operation and by a part of the path, and used up one call at a time: fail before the
//! call, fail after it succeeded (the store has it, the client does not know), answer late, never, or other bytes than are
//! stored.

use crate::store::{Lake, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// A whole object, also put-if-absent.
    Put,
    /// Begin of a multipart upload.
    StartUpload,
    PutPart,
    /// End of a multipart upload: now the object exists.
    CompleteUpload,
    /// Any read, also of a range or of the metadata alone.
    Get,
    List,
    Delete,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives.
    Fail,
    /// The credentials lack the right.
    Deny,
    /// The disk is full, as the local file system says it.
    Full,
    /// There is such an object already, says the store, and nothing is stored: S3 while an earlier try is under way.
    Conflict,
    /// The request succeeds and its answer is lost.
    FailAfterSuccess,
    /// The request waits before it arrives.
    Delay(Duration),
    /// The request waits until it is released, and then arrives.
    Hold,
    /// There is never an answer, unless waiting is cut off, and the request never arrives.
    Stall,
    /// The request succeeds, and the answer says that the object was there before: what a store says of one's own object
    /// when a put was repeated on the way.
    ExistsAfterSuccess,
    /// A read ends halfway, without an error.
    Truncate,
    /// A read brings other bytes than are stored, from its middle on.
    Garble,
    /// A read says that the object was stored so much earlier: the store's clock is behind, or the reader's ahead.
    Backdate(Duration),
}

#[derive(Debug)]
struct Planned {
    /// None: of any kind.
    op: Option<Op>,
    path_part: String,
    /// Calls that it applies to and lets pass before.
    after: usize,
    fault: Fault,
    left: usize,
}

/// Passes everything on to another store, except for planned faults. Clones share them.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    control: Arc<Control>,
}

#[derive(Debug, Default)]
struct Control {
    planned: Mutex<Vec<Planned>>,
    calls: Mutex<HashMap<Op, usize>>,
    injected: AtomicUsize,
    held: AtomicUsize,
    released: watch::Sender<usize>,
    is_cut: watch::Sender<bool>,
}

/// A lake in a local directory whose store fails on demand.
pub fn faulty_lake(directory: &std::path::Path) -> Result<(Lake, FaultyStore), StoreError> {
    let lake = Lake::open(&directory.display().to_string())?;
    let store = FaultyStore::new(Arc::clone(lake.store()));
    Ok((lake.with_store(Arc::new(store.clone())), store))
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> FaultyStore {
        FaultyStore { inner, control: Arc::default() }
    }

    /// The next `n` calls fail.
    pub fn fail_next(&self, op: Op, n: usize) {
        self.inject(op, "", Fault::Fail, n);
    }

    /// The next `n` calls succeed, and an error is answered.
    pub fn fail_after_success(&self, op: Op, n: usize) {
        self.inject(op, "", Fault::FailAfterSuccess, n);
    }

    /// All calls from now on wait.
    pub fn delay(&self, op: Op, duration: Duration) {
        self.inject(op, "", Fault::Delay(duration), usize::MAX);
    }

    /// How many requests there were, of any kind.
    pub fn requests(&self) -> usize {
        lock(&self.control.calls).values().sum()
    }

    /// Plans `fault` for the next `n` calls of `op` on paths that contain `path_part`. Of several that apply, the one
    /// planned first is used up first.
    pub fn inject(&self, op: Op, path_part: &str, fault: Fault, n: usize) {
        self.plan(Planned { op: Some(op), path_part: path_part.to_owned(), after: 0, fault, left: n });
    }

    /// The same for calls of any kind, the first `after` of which pass.
    pub fn inject_after(&self, after: usize, path_part: &str, fault: Fault, n: usize) {
        self.plan(Planned { op: None, path_part: path_part.to_owned(), after, fault, left: n });
    }

    fn plan(&self, planned: Planned) {
        lock(&self.control.planned).push(planned);
    }

    /// How many calls met a fault.
    pub fn injected(&self) -> usize {
        self.control.injected.load(Ordering::Relaxed)
    }

    /// Forgets all faults that are left.
    pub fn heal(&self) {
        lock(&self.control.planned).clear();
    }

    /// How many calls were held so far, also those that were released since.
    pub fn held(&self) -> usize {
        self.control.held.load(Ordering::Relaxed)
    }

    /// Lets all calls go on that are held now.
    pub fn release(&self) {
        self.control.released.send_replace(self.held());
    }

    /// Requests that wait for an answer in vain are cut off, now and from now on.
    pub fn cut_off(&self) {
        self.control.is_cut.send_replace(true);
    }

    /// How often a kind of request was made, faulty ones included.
    pub fn calls(&self, op: Op) -> usize {
        lock(&self.control.calls).get(&op).copied().unwrap_or_default()
    }
}

impl Control {
    /// The fault that applies to this call.
    fn take(&self, op: Op, path: &str) -> Option<Fault> {
        *lock(&self.calls).entry(op).or_default() += 1;
        let mut planned = lock(&self.planned);
        let applies = |p: &Planned| p.op.is_none_or(|of| of == op) && p.left > 0 && path.contains(&p.path_part);
        for next in planned.iter_mut().filter(|p| applies(p)) {
            if next.after > 0 {
                next.after -= 1;
                continue;
            }
            next.left -= usize::from(next.left != usize::MAX);
            self.injected.fetch_add(1, Ordering::Relaxed);
            return Some(next.fault);
        }
        None
    }

    async fn wait_for_cut(&self) {
        // The sender is this one's own.
        let _ = self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await;
    }

    async fn wait_for_release(&self) {
        let number = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        // The same.
        let _ = self.released.subscribe().wait_for(|released| *released >= number).await;
    }

    async fn run<T>(&self, op: Op, path: &Path, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.answer(self.take(op, path.as_ref()), op, path, call).await
    }

    async fn answer<T>(
        &self,
        fault: Option<Fault>,
        op: Op,
        path: &Path,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match fault {
            None | Some(Fault::Truncate | Fault::Garble | Fault::Backdate(_)) => call.await,
            Some(fault @ (Fault::Fail | Fault::Deny | Fault::Full | Fault::Conflict)) => Err(injected(fault, op, path)),
            Some(fault @ Fault::FailAfterSuccess) => {
                call.await?;
                Err(injected(fault, op, path))
            }
            Some(Fault::Delay(duration)) => {
                tokio::time::sleep(duration).await;
                call.await
            }
            Some(Fault::Hold) => {
                self.wait_for_release().await;
                call.await
            }
            Some(fault @ Fault::Stall) => {
                self.wait_for_cut().await;
                Err(injected(fault, op, path))
            }
            // Nothing is made by reading, nor by deleting.
            Some(Fault::ExistsAfterSuccess) if matches!(op, Op::Get | Op::List | Op::Delete) => call.await,
            Some(Fault::ExistsAfterSuccess) => {
                call.await?;
                Err(object_store::Error::AlreadyExists { path: path.to_string(), source: "injected".into() })
            }
        }
    }

    /// The same for a stream of items, which is one request.
    fn stream<T: Send + 'static>(
        self: Arc<Self>,
        op: Op,
        path: Path,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let items = async move {
            let failure = |fault| futures::stream::iter([Err(injected(fault, op, &path))]).boxed();
            match self.take(op, path.as_ref()) {
                // Nothing is made by reading.
                None | Some(Fault::ExistsAfterSuccess | Fault::Truncate | Fault::Garble | Fault::Backdate(_)) => items,
                Some(fault @ (Fault::Fail | Fault::Deny | Fault::Full | Fault::Conflict)) => failure(fault),
                Some(fault @ Fault::FailAfterSuccess) => {
                    items.for_each(|_| std::future::ready(())).await;
                    failure(fault)
                }
                Some(Fault::Delay(duration)) => {
                    tokio::time::sleep(duration).await;
                    items
                }
                Some(Fault::Hold) => {
                    self.wait_for_release().await;
                    items
                }
                Some(fault @ Fault::Stall) => {
                    self.wait_for_cut().await;
                    failure(fault)
                }
            }
        };
        items.flatten_stream().boxed()
    }
}

fn injected(fault: Fault, op: Op, path: &Path) -> object_store::Error {
    let source = format!("injected: {op:?} of {path}").into();
    match fault {
        Fault::Deny => object_store::Error::PermissionDenied { path: path.to_string(), source },
        Fault::Conflict => object_store::Error::AlreadyExists { path: path.to_string(), source },
        Fault::Full => {
            let source = io::Error::from(io::ErrorKind::StorageFull).into();
            object_store::Error::Generic { store: "LocalFileSystem", source }
        }
        _ => object_store::Error::Generic { store: "faulty", source },
    }
}

/// What a read brings in place of `bytes`.
fn damaged(bytes: Bytes, fault: Fault) -> Bytes {
    let middle = bytes.len() / 2;
    match fault {
        Fault::Truncate => bytes.slice(..middle),
        Fault::Garble => bytes.iter().enumerate().map(|(at, byte)| if at < middle { *byte } else { !byte }).collect(),
        _ => bytes,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

// A method that is not passed on would hide what the inner store does better.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.control.run(Op::Put, location, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let start = self.inner.put_multipart_opts(location, opts);
        let inner = self.control.run(Op::StartUpload, location, start).await?;
        Ok(Box::new(FaultyUpload { inner, location: location.clone(), control: Arc::clone(&self.control) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.control.take(Op::Get, location.as_ref());
        let answer = self.inner.get_opts(location, options);
        let mut answer = self.control.answer(fault, Op::Get, location, answer).await?;
        if let Some(Fault::Backdate(by)) = fault {
            answer.meta.last_modified -= by;
        }
        let Some(fault @ (Fault::Truncate | Fault::Garble)) = fault else { return Ok(answer) };
        let (meta, range) = (answer.meta.clone(), answer.range.clone());
        let (attributes, extensions) = (answer.attributes.clone(), answer.extensions.clone());
        let bytes = damaged(answer.bytes().await?, fault);
        let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let fault = self.control.take(Op::Get, location.as_ref());
        let answer = self.inner.get_ranges(location, ranges);
        let answer = self.control.answer(fault, Op::Get, location, answer).await?;
        match fault {
            Some(fault) => Ok(answer.into_iter().map(|bytes| damaged(bytes, fault)).collect()),
            None => Ok(answer),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (control, inner) = (Arc::clone(&self.control), Arc::clone(&self.inner));
        let one = move |location: Result<Path>| {
            let (control, inner) = (Arc::clone(&control), Arc::clone(&inner));
            let delete = async move {
                let location = location?;
                let target = location.clone();
                let mut deleted = inner.delete_stream(futures::stream::once(async move { Ok(target) }).boxed());
                let delete = async { deleted.next().await.unwrap_or_else(|| Ok(location.clone())) };
                control.run(Op::Delete, &location, delete).await
            };
            delete.boxed()
        };
        locations.then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        Arc::clone(&self.control).stream(Op::List, path, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        Arc::clone(&self.control).stream(Op::List, path, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        self.control.run(Op::List, &path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.control.run(Op::Put, to, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.control.run(Op::Put, to, self.inner.rename_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    location: Path,
    control: Arc<Control>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, location) = (self.inner.put_part(data), self.location.clone());
        let control = Arc::clone(&self.control);
        async move { control.run(Op::PutPart, &location, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.control.run(Op::CompleteUpload, &self.location, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn faults_are_used_up_by_calls_that_they_apply_to() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        store.inject(Op::Put, "b/", Fault::Fail, 1);
        store.put(&Path::from("a/1"), "x".into()).await.unwrap();
        assert!(store.put(&Path::from("b/1"), "x".into()).await.is_err());
        assert!(store.get(&Path::from("b/1")).await.is_err());
        store.put(&Path::from("b/1"), "x".into()).await.unwrap();
        assert_eq!(store.calls(Op::Put), 3);
    }

    #[tokio::test]
    async fn a_call_that_fails_after_success_has_happened() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        store.fail_after_success(Op::Put, 1);
        assert!(store.put(&Path::from("a"), "x".into()).await.is_err());
        store.get(&Path::from("a")).await.unwrap();
        store.fail_after_success(Op::Delete, 1);
        assert!(store.delete(&Path::from("a")).await.is_err());
        assert!(store.get(&Path::from("a")).await.is_err());
    }

    #[tokio::test]
    async fn a_damaged_read_brings_other_bytes_and_no_error() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let path = Path::from("a");
        store.put(&path, "abcd".into()).await.unwrap();
        store.inject(Op::Get, "", Fault::Truncate, 2);
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "ab");
        assert_eq!(store.get_ranges(&path, &[0..4, 2..4]).await.unwrap(), ["ab", "c"]);
        store.inject(Op::Get, "", Fault::Garble, 1);
        assert_eq!(store.get_range(&path, 0..4).await.unwrap(), [b'a', b'b', !b'c', !b'd'].as_slice());
        assert_eq!(store.get_range(&path, 0..4).await.unwrap(), "abcd");
    }

    #[tokio::test]
    async fn a_fault_can_wait_for_a_call_whatever_its_kind() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        store.inject_after(2, "a", Fault::Fail, 1);
        store.put(&Path::from("a"), "x".into()).await.unwrap();
        store.put(&Path::from("b"), "x".into()).await.unwrap();
        store.get(&Path::from("a")).await.unwrap();
        assert_eq!(store.injected(), 0);
        assert!(store.delete(&Path::from("a")).await.is_err());
        store.get(&Path::from("a")).await.unwrap();
        assert_eq!(store.injected(), 1);
    }

    #[tokio::test]
    async fn a_call_that_is_held_goes_on_when_it_is_released_and_the_next_waits_anew() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        store.inject(Op::Put, "", Fault::Hold, 2);
        for number in 1..=2 {
            let path = Path::from(format!("{number}"));
            let release = async {
                while store.held() < number {
                    tokio::task::yield_now().await;
                }
                assert!(store.get(&path).await.is_err());
                store.release();
            };
            tokio::join!(store.put(&path, "x".into()), release).0.unwrap();
            store.get(&path).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_list_and_an_upload_can_fail_too() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        store.fail_next(Op::List, 1);
        assert!(store.list(None).next().await.unwrap().is_err());
        store.fail_next(Op::CompleteUpload, 1);
        let mut upload = store.put_multipart(&Path::from("a")).await.unwrap();
        upload.put_part("x".into()).await.unwrap();
        assert!(upload.complete().await.is_err());
        assert!(store.list(None).next().await.is_none());
    }
}
