//! Opens a store whose last write was torn by a power failure.
//!
//! The store writes a group to its journal and calls fsync. If the power goes in between, some pages of that group may
//! be on disk and others not; nobody was told that it is durable. Most such tails the store cuts off by itself, but when
//! the end of the group arrived and its middle did not, it finds a wrong checksum and refuses to open at all. Then this
//! module cuts off that last group, if it is the very last one. A wrong checksum anywhere else is damage to records
//! that were acknowledged: that stays an error, and the file stays as it was.

use fjall::{Error, JournalRecoveryError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use tracing::warn;

/// Opens by `open`; after a wrong checksum once more without the journal's last group.
pub(super) fn open<T>(dir: &Path, open: impl Fn() -> fjall::Result<T>) -> fjall::Result<T> {
    let error = match open() {
        Err(error @ Error::JournalRecovery(JournalRecoveryError::ChecksumMismatch)) => error,
        result => return result,
    };
    let Some(journal) = newest_journal(dir)? else { return Err(error) };
    let Some(start) = last_group(&journal)? else { return Err(error) };
    // Kept: only a person can tell a torn group from one that the disk spoilt later.
    let whole = journal.with_extension("torn");
    fs::copy(&journal, &whole)?;
    let file = OpenOptions::new().write(true).open(&journal)?;
    file.set_len(start)?;
    file.sync_all()?;
    match open() {
        Ok(opened) => {
            warn!(kept = %whole.display(), at = start, "cut off a group that was torn before it was durable");
            Ok(opened)
        }
        // The damage is elsewhere.
        Err(_) => {
            fs::rename(&whole, &journal)?;
            Err(error)
        }
    }
}

/// The journal that was written to last: `<number>.jnl`.
fn newest_journal(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        if let (true, Some(number)) = (is_journal, number)
            && newest.as_ref().is_none_or(|(known, _)| *known < number)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last complete group of a journal starts.
///
/// A journal of fjall 3 is a row of groups: start (tag 1, items u32, sequence number u64), items (tag 2, kind u8,
/// compression u8, keyspace u64, key length u16, value length u32, stored length u32, key, value), or clear (tag 4,
/// keyspace u64), and end (tag 3, checksum u64, four bytes of magic).
fn last_group(journal: &Path) -> io::Result<Option<u64>> {
    const START: u8 = 1;
    const ITEM: u8 = 2;
    const END: u8 = 3;
    const CLEAR: u8 = 4;

    let file = File::open(journal)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let (mut at, mut group, mut last) = (0, 0, None);
    loop {
        let mut head = [0; 21];
        let tag = read(&mut reader, &mut head[..1])?.then_some(head[0]);
        let size = match tag {
            Some(START) => 12,
            Some(ITEM) => 20,
            Some(END) => 12,
            Some(CLEAR) => 8,
            // Zeros that were never written to, or the end of the file.
            _ => return Ok(last),
        };
        if !read(&mut reader, &mut head[1..=size])? {
            return Ok(last);
        }
        if tag == Some(START) {
            group = at;
        }
        at += 1 + size as u64;
        if tag == Some(ITEM) {
            let key = u16::from_le_bytes([head[11], head[12]]);
            let value = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
            let skip = i64::from(key) + i64::from(value);
            reader.seek_relative(skip)?;
            at += skip as u64;
        }
        if at > length {
            return Ok(last);
        }
        if tag == Some(END) {
            last = Some(group);
        }
    }
}

/// Fills `bytes`; false if the file ends before.
fn read(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}
