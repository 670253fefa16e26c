//! The file of keys, and how it changes: as a whole, one after the other, with all else that people wrote in it.
//!
//! A change is a new file put in the place of the old one, so a gateway or a crash never sees half of it. The directory is
//! locked meanwhile: of two commands at once the second reads what the first has written. Comments and order stay; what
//! gateways would not understand is refused before anything is changed.

use anyhow::{Context, anyhow, bail};
use ingest::auth::keys::{self, Key};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use toml_edit::{ArrayOfTables, DocumentMut, Item};

/// What a new file begins with.
const HEAD: &str = "# API keys, as hashes: who reads this file cannot post with them. Made by `lakehose keys`; gateways read\n\
                    # it again when it changes.\n";

/// The keys of a file; `None` if there is no file.
pub fn read(path: &Path) -> anyhow::Result<Option<Vec<Key>>> {
    let Some(text) = text(path)? else { return Ok(None) };
    Ok(Some(parse(path, &text)?))
}

/// The keys of a file that must be there.
pub fn read_existing(path: &Path) -> anyhow::Result<Vec<Key>> {
    read(path)?.ok_or_else(|| missing(path))
}

/// A file that nobody else changes.
pub struct Locked {
    /// Where the file is, not a link to it.
    path: PathBuf,
    directory: File,
    found: bool,
    pub keys: Vec<Key>,
    document: DocumentMut,
}

impl Locked {
    /// Waits for whoever changes it now, and reads it. A file that is not there is empty.
    pub fn open(path: &Path) -> anyhow::Result<Locked> {
        let path = match fs::canonicalize(path) {
            Err(err) if err.kind() == ErrorKind::NotFound => path.to_owned(),
            resolved => resolved.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let name = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = File::open(name).and_then(|directory| directory.lock().map(|()| directory));
        let directory = directory.with_context(|| format!("cannot lock the directory {} (--file)", name.display()))?;
        let found = text(&path)?;
        let text = found.as_deref().unwrap_or_default();
        let keys = parse(&path, text)?;
        let document = text.parse().map_err(|_| anyhow!("{} is not TOML", path.display()))?;
        Ok(Locked { path, directory, found: found.is_some(), keys, document })
    }

    pub fn must_exist(self) -> anyhow::Result<Locked> {
        match self.found {
            true => Ok(self),
            false => Err(missing(&self.path)),
        }
    }

    /// The tables `[[keys]]`.
    pub fn tables(&mut self) -> anyhow::Result<&mut ArrayOfTables> {
        let keys = self.document.entry("keys").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        match keys.as_array_of_tables_mut() {
            Some(tables) => Ok(tables),
            None => bail!("{} has its keys in one array: write each as a table [[keys]]", self.path.display()),
        }
    }

    /// Puts the changed file in the place of the old one.
    pub fn replace(self) -> anyhow::Result<()> {
        let head = if self.found { "" } else { HEAD };
        let text = format!("{head}{}", self.document);
        parse(&self.path, &text)?;
        self.write(&text).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Only its owner can read it: mode 0600.
        let mut new = NamedTempFile::with_prefix_in(".keys-", directory)?;
        new.write_all(text.as_bytes())?;
        if let Ok(old) = fs::metadata(&self.path)
            && new.as_file().metadata().is_ok_and(|new| (new.uid(), new.gid()) != (old.uid(), old.gid()))
        {
            // An administrator's change must not take the file away from the gateway that runs as its owner.
            fchown(new.as_file(), Some(old.uid()), Some(old.gid()))
                .context("give the new file to the owner of the old")?;
        }
        new.as_file().sync_all()?;
        new.persist(&self.path)?;
        Ok(self.directory.sync_all()?)
    }
}

fn text(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).with_context(|| format!("cannot read {} (--file)", path.display())),
    }
}

fn parse(path: &Path, text: &str) -> anyhow::Result<Vec<Key>> {
    keys::parse(text).with_context(|| format!("cannot use {}", path.display()))
}

fn missing(path: &Path) -> anyhow::Error {
    anyhow!("there is no file {}: name another with --file, or make a key with `lakehose keys create`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use toml_edit::{Table, value};

    fn entry(id: &str) -> Table {
        let mut table = Table::new();
        table["id"] = value(id);
        table["name"] = value(id);
        table["sha256"] = value("0".repeat(64));
        table
    }

    fn add(path: &Path, id: &str) -> anyhow::Result<()> {
        let mut file = Locked::open(path)?;
        file.tables()?.push(entry(id));
        file.replace()
    }

    #[test]
    fn what_people_wrote_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let zeros = "0".repeat(64);
        let before = format!(
            "# ours\n[[keys]] # the first\nid = 'a'   # by hand\nname = \"a\"\nsha256 = '{zeros}'\n\n# not that one\n"
        );
        fs::write(&path, &before).unwrap();
        add(&path, "b").unwrap();
        let after = fs::read_to_string(&path).unwrap();
        let own = before.trim_end_matches("\n# not that one\n").trim_end();
        assert!(after.starts_with(own) && after.contains("# not that one"), "{after}");
        assert_eq!(read_existing(&path).unwrap().iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_new_file_begins_with_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        add(&path, "a").unwrap();
        add(&path, "b").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(HEAD) && text.matches(HEAD).count() == 1, "{text}");
    }

    #[test]
    fn a_file_is_the_owners_alone_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("keys.toml"), folder.path().join("link.toml"));
        add(&path, "a").unwrap();
        symlink("keys.toml", &link).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        add(&link, "b").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read_existing(&path).unwrap().len(), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn changes_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || (0..5).for_each(|k| add(path, &format!("k{n}x{k}")).unwrap()));
            }
        });
        assert_eq!(read_existing(&path).unwrap().len(), 40);
    }

    #[test]
    fn a_file_that_is_not_understood_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let zeros = "0".repeat(64);
        for text in [
            "[[keys]]\nid = 'a'\nrole = 'admin'\n".to_owned(),
            "[section]\n".to_owned(),
            "[[keys".to_owned(),
            format!("keys = [{{ id = 'a', name = 'a', sha256 = '{zeros}' }}]\n"),
        ] {
            fs::write(&path, &text).unwrap();
            assert!(add(&path, "b").is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(read_existing(&folder.path().join("other.toml")).unwrap_err().to_string().contains("--file"));
    }
}
