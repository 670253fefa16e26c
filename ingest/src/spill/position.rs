//! How far a queue is drained: a small file beside it, replaced as a whole and synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".position";

/// The file of one dataset.
#[derive(Debug)]
pub(super) struct PositionFile {
    directory: PathBuf,
    name: String,
}

/// The datasets that have one.
pub(super) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name();
        names.extend(file.to_str().and_then(|file| file.strip_suffix(SUFFIX)).map(str::to_owned));
    }
    Ok(names)
}

impl PositionFile {
    pub(super) fn new(directory: &Path, dataset: &str) -> PositionFile {
        PositionFile { directory: directory.to_owned(), name: format!("{dataset}{SUFFIX}") }
    }

    /// The offset to go on at; `None` if nothing was noted yet.
    pub(super) fn load(&self) -> io::Result<Option<i64>> {
        let path = self.directory.join(&self.name);
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|err| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}: {err}", path.display()))
            }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Durable when this returns. A crash leaves the old or the new one.
    pub(super) fn store(&self, next: i64) -> io::Result<()> {
        let made = self.directory.join(format!("{}.new", self.name));
        let mut file = File::create(&made)?;
        writeln!(file, "{next}")?;
        file.sync_all()?;
        fs::rename(&made, self.directory.join(&self.name))?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Adds a line to a file, durably.
pub(super) fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
