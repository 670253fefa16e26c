//! A file that may change while the gateway runs.
//!
//! New contents count once they have settled ([`settled`](crate::settled)). A file that is gone or cannot be understood changes nothing: what was read before stays in force, an error line says
//! so once, and a series until it is over. To let nobody in, write a file without keys.

use crate::metrics;
use crate::settled::Settled;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tracing::{error, info};

/// Largest file; some 200,000 keys.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

pub(crate) struct Watched<T> {
    /// As metrics and log lines call it.
    what: &'static str,
    path: Option<PathBuf>,
    parse: Parse<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

/// What was read, and whether what was decided on could be used. Errors are texts: only whether they change matters.
struct Seen {
    read: Settled<Result<String, String>>,
    broken: bool,
}

/// Why a file cannot be used at the start.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}: {problem}", path = path.display())]
pub struct Unusable {
    pub path: PathBuf,
    pub problem: String,
}

impl<T> Watched<T> {
    /// Reads the file for the first time; without a `path` there is nothing that could change, and `parse` gets "".
    pub(crate) fn open(what: &'static str, path: Option<PathBuf>, parse: Parse<T>) -> Result<Watched<T>, Unusable> {
        let unusable = |problem| Unusable { path: path.clone().unwrap_or_else(|| what.into()), problem };
        let text = path.as_deref().map_or(Ok(String::new()), read).map_err(unusable)?;
        let current = RwLock::new(Arc::new(parse(&text).map_err(unusable)?));
        let seen = Mutex::new(Seen { read: Settled::new(Ok(text)), broken: false });
        metrics::credentials_stale(what, false);
        Ok(Watched { what, path, parse, current, seen })
    }

    /// What is in force.
    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks whether the file has changed. Blocks while it reads.
    pub(crate) fn look(&self) {
        let Some(path) = &self.path else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(read) = seen.read.look(read(path)) else { return };
        let parsed = match read {
            Ok(text) => (self.parse)(text),
            Err(problem) => Err(problem.clone()),
        };
        seen.broken = parsed.is_err();
        metrics::credentials_reloaded(self.what, parsed.is_ok());
        metrics::credentials_stale(self.what, seen.broken);
        match parsed {
            Ok(parsed) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(parsed);
                info!(what = self.what, file = %path.display(), "credentials read again");
            }
            Err(problem) => {
                error!(what = self.what, file = %path.display(), problem, "credentials cannot be used, the old ones stay");
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let taken = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    match taken {
        Ok(bytes) if bytes as u64 > MAX_BYTES => Err("it is larger than 64 MiB".to_owned()),
        Ok(_) => Ok(text),
        Err(err) if err.kind() == io::ErrorKind::InvalidData => Err("it is not UTF-8".to_owned()),
        Err(err) => Err(err.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn number(path: &Path) -> Watched<u32> {
        let parse = |text: &str| text.trim().parse().map_err(|_| "not a number".to_owned());
        Watched::open("keys", Some(path.to_owned()), Box::new(parse)).unwrap()
    }

    /// What is in force after the file was looked at as often as in a second.
    fn after_a_second(watched: &Watched<u32>) -> u32 {
        watched.look();
        watched.look();
        *watched.current()
    }

    #[test]
    fn a_file_is_read_again_however_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "1").unwrap();
        let watched = number(&path);
        assert_eq!(after_a_second(&watched), 1);
        fs::write(&path, "2").unwrap();
        assert_eq!(after_a_second(&watched), 2);
        fs::write(folder.path().join("new"), "3").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(after_a_second(&watched), 3);

        // As Kubernetes mounts a secret: file -> ..data/file, ..data -> a folder that is swapped.
        for version in ["4", "5"] {
            fs::create_dir(folder.path().join(version)).unwrap();
            fs::write(folder.path().join(version).join("file"), version).unwrap();
        }
        fs::remove_file(&path).unwrap();
        symlink("..data/file", &path).unwrap();
        symlink("4", folder.path().join("..data")).unwrap();
        assert_eq!(after_a_second(&watched), 4);
        symlink("5", folder.path().join("..new")).unwrap();
        fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
        assert_eq!(after_a_second(&watched), 5);
    }

    #[test]
    fn a_file_that_is_broken_or_gone_changes_nothing_until_it_is_whole_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "1").unwrap();
        let watched = number(&path);
        let broken = || watched.seen.lock().unwrap().broken;
        for damage in ["x", ""] {
            fs::write(&path, damage).unwrap();
            assert_eq!((after_a_second(&watched), broken()), (1, true), "{damage}");
        }
        fs::write(&path, [0xff]).unwrap();
        assert_eq!((after_a_second(&watched), broken()), (1, true));
        fs::remove_file(&path).unwrap();
        assert_eq!((after_a_second(&watched), broken()), (1, true));
        fs::write(&path, "1").unwrap();
        assert_eq!((after_a_second(&watched), broken()), (1, false));
        fs::write(&path, "2").unwrap();
        assert_eq!(after_a_second(&watched), 2);
    }

    #[test]
    fn a_file_in_the_middle_of_being_written_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "100").unwrap();
        let watched = number(&path);
        fs::write(&path, "2").unwrap();
        watched.look();
        assert_eq!(*watched.current(), 100);
        fs::write(&path, "200").unwrap();
        watched.look();
        assert_eq!(*watched.current(), 100);
        watched.look();
        assert_eq!(*watched.current(), 200);
    }

    #[test]
    fn a_file_that_cannot_be_used_at_the_start_is_named() {
        let open = |path: &str| Watched::<u32>::open("keys", Some(path.into()), Box::new(|_| Err("no".into())));
        let problem = |path| open(path).err().unwrap().to_string();
        assert!(problem("/nowhere/keys.toml").contains("/nowhere/keys.toml: No such file"));
        assert_eq!(problem("/dev/null"), "cannot use /dev/null: no");
    }
}
