//! The bucket, or the directory, that tables lie in.

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
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
        use object_store::Error as E;
        match self {
            StoreError::Object { source, .. } => !matches!(
                source,
                E::PermissionDenied { .. }
                    | E::Unauthenticated { .. }
                    | E::NotSupported { .. }
                    | E::NotImplemented { .. }
            ),
            _ => false,
        }
    }
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
        Ok(Lake { store: Arc::new(store), root, url })
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
        let mut builder = AmazonS3Builder::from_env()
            .with_url(url.as_str())
            .with_retry(object_store::RetryConfig { retry_timeout: Duration::from_secs(30), ..Default::default() });
        if plain_http {
            builder = builder.with_allow_http(true);
        }
        let open = |source| StoreError::Open { url: url.to_string(), source };
        let store = builder.build().map_err(open)?;
        let root = Path::from_url_path(url.path()).map_err(|err| open(err.into()))?;
        Ok(Lake { store: Arc::new(store), root, url })
    }

    /// The same place, reached through another store.
    #[cfg(feature = "testing")]
    pub fn with_store(&self, store: Arc<dyn ObjectStore>) -> Lake {
        Lake { store, ..self.clone() }
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

/// Stores a new object under a name that nobody else uses.
pub async fn put_new(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
    let options = PutOptions::from(PutMode::Create);
    match store.put_opts(path, PutPayload::from_bytes(bytes), options).await {
        // The name is random, so the object is ours: the store answered an error after storing it, and the client
        // tried again.
        Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(source) => Err(StoreError::Object { operation: "store", path: path.to_string(), source }),
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

    #[test]
    fn what_is_no_place_for_a_lake_is_refused() {
        for location in ["", "http://x/y", "gs://bucket", "s3://", "file://host/x"] {
            assert!(matches!(Lake::open(location), Err(StoreError::Url { .. })), "{location}");
        }
    }
}
