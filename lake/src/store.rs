//! The bucket, or the directory, that tables lie in.

use crate::whole::WholeReads;
use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Where all tables lie: a store, and a place in it.
#[derive(Debug, Clone)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: Url,
}

/// What a lake is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read,
    Write,
}

/// Why a lake cannot be used. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`{url}` is not a place for a lake: use file:///path or s3://bucket/prefix")]
    Url { url: String },
    #[error("the directory {path} cannot be used")]
    Directory { path: String, source: std::io::Error },
    #[error("open {url}")]
    Open { url: String, source: object_store::Error },
    #[error("{operation} {path}")]
    Object { operation: &'static str, path: String, source: object_store::Error },
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Object { .. }) && self.advice().is_none()
    }

    /// What to do about an error that trying again does not cure, unless the message says it.
    pub fn advice(&self) -> Option<&'static str> {
        let StoreError::Object { operation, source, .. } = self else { return None };
        match source {
            // A read that finds nothing is no error, so this is a write, which S3 refuses so for want of the bucket.
            object_store::Error::NotFound { .. } if *operation != "list" => Some(MAKE_THE_BUCKET),
            source => advice(source),
        }
    }
}

const CHECK_CREDENTIALS: &str = "the store refuses these credentials: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY \
     and AWS_SESSION_TOKEN, and that their policy allows s3:GetObject, s3:PutObject and s3:ListBucket under --lake";
const MAKE_THE_BUCKET: &str = "there is no such bucket: check --lake and AWS_ENDPOINT_URL, or make the bucket again";
const CHECK_DIRECTORY: &str =
    "the directory of the lake cannot be written: check its owner and mode, and how its disk is mounted";
const USE_ANOTHER_STORE: &str = "the store cannot store an object only if it is absent (If-None-Match: *), which commits \
     stand on: use one that can";

/// What to do about an error of the store; `None` for those that may pass by themselves: 5xx, time-outs, refused and
/// lost connections, a disk that is full.
pub(crate) fn advice(err: &object_store::Error) -> Option<&'static str> {
    use object_store::Error as E;
    match err {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Some(CHECK_CREDENTIALS),
        E::NotSupported { .. } | E::NotImplemented { .. } => Some(USE_ANOTHER_STORE),
        E::Generic { store: "LocalFileSystem", source } => is_denied(source.as_ref()).then_some(CHECK_DIRECTORY),
        // A 400, and the status of an answer is known by its text alone.
        E::Generic { source, .. } => {
            let answer = source.to_string();
            let refused = ["<Code>ExpiredToken</Code>", "<Code>InvalidToken</Code>"].iter().any(|c| answer.contains(c));
            refused.then_some(CHECK_CREDENTIALS)
        }
        _ => None,
    }
}

fn is_denied(err: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(err), |err| err.source());
    let mut kinds = causes.filter_map(|err| err.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.any(|kind| matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem))
}

impl Lake {
    /// Opens `file:///absolute/path`, a plain path, or `s3://bucket/prefix`. S3 takes credentials, region and endpoint
    /// from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …). Creates a local directory
    /// and makes sure that it can be written; touches no network.
    pub fn open(location: &str) -> Result<Lake, StoreError> {
        Lake::open_for(location, Purpose::Write)
    }

    /// As [`Lake::open`], for reading alone: creates nothing.
    pub fn open_existing(location: &str) -> Result<Lake, StoreError> {
        Lake::open_for(location, Purpose::Read)
    }

    fn open_for(location: &str, purpose: Purpose) -> Result<Lake, StoreError> {
        let bad_url = || StoreError::Url { url: location.to_owned() };
        let directory = match Url::parse(location) {
            Ok(url) if url.scheme() == "s3" => return Lake::open_s3(url),
            Ok(url) if url.scheme() == "file" => url.to_file_path().map_err(|()| bad_url())?,
            Ok(_) => return Err(bad_url()),
            Err(_) if location.is_empty() || location.contains("://") => return Err(bad_url()),
            Err(_) => location.into(),
        };
        Lake::open_directory(directory, purpose)
    }

    fn open_directory(path: std::path::PathBuf, purpose: Purpose) -> Result<Lake, StoreError> {
        let directory = |source| StoreError::Directory { path: path.display().to_string(), source };
        if purpose == Purpose::Write {
            std::fs::create_dir_all(&path).map_err(directory)?;
            // Found out now, with a clear message, rather than at the first upload.
            prove_writable(&path).map_err(directory)?;
        }
        let absolute = path.canonicalize().map_err(directory)?;
        let url =
            Url::from_directory_path(&absolute).map_err(|()| StoreError::Url { url: path.display().to_string() })?;
        let root = Path::from_absolute_path(&absolute)
            .map_err(|err| StoreError::Open { url: url.to_string(), source: err.into() })?;
        // Without fsync "uploaded" would not mean durable.
        let store = LocalFileSystem::new().with_fsync(true);
        Ok(Lake { store: WholeReads::of(Arc::new(store)), root, url })
    }

    fn open_s3(mut url: Url) -> Result<Lake, StoreError> {
        if url.host_str().is_none_or(str::is_empty) {
            return Err(StoreError::Url { url: url.to_string() });
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let endpoint =
            ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(|n| std::env::var(n).ok());
        // An endpoint written with http:// is meant so; real S3 is always https.
        let plain_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(client_retries());
        if plain_http {
            builder = builder.with_allow_http(true);
        }
        let open = |source| StoreError::Open { url: url.to_string(), source };
        let store = builder.build().map_err(open)?;
        let root = Path::from_url_path(url.path()).map_err(|err| open(err.into()))?;
        Ok(Lake { store: WholeReads::of(Arc::new(store)), root, url })
    }

    /// The same place, reached through another store.
    #[cfg(feature = "testing")]
    pub fn with_store(&self, store: Arc<dyn ObjectStore>) -> Lake {
        Lake { store: WholeReads::of(store), ..self.clone() }
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where the lake is, with a slash at its end.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Path in the store of a table's directory.
    pub fn table_path(&self, table: &str) -> Path {
        self.root.clone().join(table)
    }

    /// URL of a table, without a slash at its end: what a reader's `delta_scan` takes.
    pub fn table_url(&self, table: &str) -> String {
        format!("{}{table}", self.url)
    }

    /// Finds out whether the lake can be reached and listed.
    pub async fn probe(&self) -> Result<(), StoreError> {
        match self.store.list_with_delimiter(Some(&self.root)).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Object { operation: "list", path: self.url.to_string(), source }),
        }
    }
}

/// What the client tries again by itself: the error or lost connection that a healthy S3 answers now and then, within a
/// second. An outage is the caller's, who knows what may wait and for how long; retries of both layers would multiply,
/// and a caller would hear of an outage only when the client has given up.
fn client_retries() -> RetryConfig {
    let (init_backoff, max_backoff) = (Duration::from_millis(100), Duration::from_millis(500));
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
    RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(10) }
}

/// Stores a new object under a name that nobody else uses.
pub async fn put_new(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
    let failed = |source| StoreError::Object { operation: "store", path: path.to_string(), source };
    let options = PutOptions::from(PutMode::Create);
    match store.put_opts(path, PutPayload::from_bytes(bytes), options).await {
        Ok(_) => Ok(()),
        // The name is random, so the object is ours, if it is there: the store answered an error after storing it, and
        // the client tried again. S3 answers alike while an earlier try is still under way, which may yet fail.
        Err(taken @ object_store::Error::AlreadyExists { .. }) => match store.head(path).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => Err(failed(taken)),
            Err(source) => Err(failed(source)),
        },
        Err(source) => Err(failed(source)),
    }
}

/// All of an object; `None` if there is none.
pub async fn get(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>, StoreError> {
    let failed = |source| StoreError::Object { operation: "read", path: path.to_string(), source };
    match store.get(path).await {
        Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

/// Proves that files can be made in `directory`.
fn prove_writable(directory: &std::path::Path) -> std::io::Result<()> {
    let path = directory.join(format!(".lakehose-probe-{}", uuid::Uuid::new_v4()));
    std::fs::File::create_new(&path)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fault, FaultyStore, Op};
    use object_store::memory::InMemory;

    #[test]
    fn reading_creates_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("lake");
        let location = path.to_str().unwrap();
        assert!(matches!(Lake::open_existing(location), Err(StoreError::Directory { .. })));
        assert!(!path.exists());
        let lake = Lake::open(location).unwrap();
        assert_eq!(Lake::open_existing(location).unwrap().url(), lake.url());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_object_counts_as_stored_only_if_it_is_there() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let path = Path::from("x");
        store.inject(Op::Put, "", Fault::Conflict, 1);
        let err = put_new(&store, &path, Bytes::from_static(b"x")).await.unwrap_err();
        assert!(err.is_retryable(), "{err}");
        store.fail_after_success(Op::Put, 1);
        assert!(put_new(&store, &path, Bytes::from_static(b"x")).await.is_err());
        put_new(&store, &path, Bytes::from_static(b"x")).await.unwrap();
    }

    #[test]
    fn what_is_no_place_for_a_lake_is_refused() {
        for location in ["", "http://x/y", "gs://bucket", "s3://", "file://host/x"] {
            assert!(matches!(Lake::open(location), Err(StoreError::Url { .. })), "{location}");
        }
    }
}
