//! What a killed process leaves behind in a lake in a local directory: an upload is a file `<name>#<number>` until it is
//! complete, and no store lists it. (On S3 these are parts of incomplete uploads, which the bucket's own rules remove.)

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use url::Url;

/// An upload that may still be under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staging {
    /// Inside the table.
    pub path: String,
    pub bytes: u64,
    /// When it was written to last, milliseconds since the epoch.
    pub modified_ms: i64,
    file: PathBuf,
}

impl Staging {
    pub async fn delete(&self) -> io::Result<()> {
        tokio::fs::remove_file(&self.file).await
    }
}

/// Those of the table at `url`, in its directory and one below; none if it is no directory.
pub(crate) async fn list(url: &str) -> io::Result<Vec<Staging>> {
    let Some(table) = Url::parse(url).ok().and_then(|url| url.to_file_path().ok()) else { return Ok(Vec::new()) };
    let work = move || {
        let mut found = list_directory(&table, &table)?;
        for entry in entries(&table)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.extend(list_directory(&table, &entry.path())?);
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn list_directory(table: &Path, directory: &Path) -> io::Result<Vec<Staging>> {
    let mut found = Vec::new();
    for entry in entries(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_staging) {
            continue;
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Complete by now.
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(err),
        };
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let file = entry.path();
        let path = file.strip_prefix(table).unwrap_or(&file).display().to_string();
        found.push(Staging { path, bytes: metadata.len(), modified_ms: modified.as_millis() as i64, file });
    }
    Ok(found)
}

fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<std::fs::DirEntry>>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(err) => Err(err),
    }
}

/// As the local store names them: no object can have such a name.
fn is_staging(name: &str) -> bool {
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lake;
    use object_store::ObjectStoreExt;

    #[tokio::test]
    async fn an_upload_that_was_cut_off_is_found_and_no_object_is() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let object = lake.table_path("events").join("date=2026-11-22").join("a.parquet");
        lake.store().put(&object, "x".into()).await.unwrap();
        assert_eq!(list(&lake.table_url("events")).await.unwrap(), []);

        let mut upload = lake.store().put_multipart(&object).await.unwrap();
        upload.put_part("half".into()).await.unwrap();
        // As if killed.
        std::mem::forget(upload);
        let found = list(&lake.table_url("events")).await.unwrap();
        assert_eq!(found.iter().map(|found| found.bytes).collect::<Vec<_>>(), [4]);
        assert!(found[0].path.starts_with("date=2026-11-22/a.parquet#"), "{}", found[0].path);
        found[0].delete().await.unwrap();
        assert_eq!(list(&lake.table_url("events")).await.unwrap(), []);
        assert_eq!(lake.store().get(&object).await.unwrap().bytes().await.unwrap(), "x");
        assert_eq!(list(&lake.table_url("other")).await.unwrap(), []);
        assert_eq!(list("s3://bucket/events").await.unwrap(), []);
    }
}
