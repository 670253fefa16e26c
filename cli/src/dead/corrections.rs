//! A file of corrected records. It is read through before anything is sent; in memory stays where each line begins.

use super::Version;
use super::args::Place;
use super::filter::{Filter, Offsets};
use super::letter;
use super::ndjson::{self, Corrected};
use super::read::Batches;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub struct Corrections {
    path: PathBuf,
    file: BufReader<File>,
    lines: BTreeMap<Place, Line>,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    number: u64,
    /// Where it begins.
    at: u64,
}

impl Corrections {
    /// Reads the file, and refuses it for a line that says nothing, or for a record that is named twice.
    pub fn open(path: &Path) -> anyhow::Result<Corrections> {
        let cannot_read = || format!("cannot read {} (--input names an export)", path.display());
        let mut file = BufReader::new(File::open(path).with_context(cannot_read)?);
        let (mut lines, mut text) = (BTreeMap::new(), String::new());
        let mut line = Line { number: 0, at: 0 };
        loop {
            text.clear();
            line.number += 1;
            let length = file.read_line(&mut text).with_context(cannot_read)?;
            if length == 0 {
                return Ok(Corrections { path: path.to_owned(), file, lines });
            }
            if !text.trim().is_empty() {
                let wrong = || format!("line {} of {}", line.number, path.display());
                let place = ndjson::parse(&text).with_context(wrong)?.place;
                if let Some(first) = lines.insert(place, line) {
                    bail!("{} names {place} again, after line {}", wrong(), first.number);
                }
            }
            line.at += length as u64;
        }
    }

    /// Refuses lines that name what is no dead letter.
    pub async fn require_letters(&self, dead: &Version) -> anyhow::Result<()> {
        let mut missing = self.lines.clone();
        let filter = self.span();
        let columns = ["kafka_partition", "kafka_offset"];
        for file in dead.state.files().values().filter(|file| filter.may_be_in(file)) {
            let mut batches = Batches::open(&dead.table, file, Some(&columns)).await?;
            while let Some(batch) = batches.next().await? {
                for row in 0..batch.num_rows() {
                    missing.remove(&letter::place(&batch, row)?);
                }
            }
        }
        match missing.iter().min_by_key(|(_, line)| line.number) {
            None => Ok(()),
            Some((place, line)) => bail!(
                "line {} of {} names {place}, which is no dead letter of {}; nothing was replayed",
                line.number,
                self.path.display(),
                dead.table.name()
            ),
        }
    }

    /// All places that are named, and maybe others.
    fn span(&self) -> Filter {
        let offsets = self.lines.keys().map(|place| place.offset);
        let (from, to) = (offsets.clone().min().unwrap_or(0), offsets.max().unwrap_or(0).saturating_add(1));
        Filter { offsets: Some(Offsets { from, to }), ..Filter::default() }
    }

    pub fn names(&self, place: Place) -> bool {
        self.lines.contains_key(&place)
    }

    /// What the file says of the record at `place`.
    pub fn of(&mut self, place: Place) -> anyhow::Result<Option<Corrected>> {
        let Some(line) = self.lines.get(&place) else { return Ok(None) };
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(line.at))?;
        self.file.read_line(&mut text)?;
        let corrected = ndjson::parse(&text).ok().filter(|corrected| corrected.place == place);
        corrected.map(Some).with_context(|| format!("{} was changed while it was read", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(lines: &str) -> anyhow::Result<Corrections> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("corrected.ndjson");
        std::fs::write(&path, lines).unwrap();
        Corrections::open(&path)
    }

    #[test]
    fn every_line_is_found_by_its_place() {
        let lines = "\n{\"kafka_partition\":1,\"kafka_offset\":5,\"payload\":\"ü\"}\n \n\
                     {\"kafka_partition\":0,\"kafka_offset\":7,\"payload\":\"b\"}";
        let mut corrections = open(lines).unwrap();
        let place = |partition, offset| Place { partition, offset };
        let mut payload = |at| corrections.of(at).unwrap().map(|found| found.payload.unwrap());
        assert_eq!(payload(place(0, 7)).unwrap(), "b");
        assert_eq!(payload(place(1, 5)).unwrap(), "ü");
        assert_eq!(payload(place(1, 6)), None);
        assert!(corrections.names(place(1, 5)) && !corrections.names(place(0, 5)));
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number() {
        let line = "{\"kafka_partition\":1,\"kafka_offset\":5,\"payload\":\"a\"}\n";
        let refusal = |lines: &str| format!("{:#}", open(lines).err().unwrap());
        assert!(refusal(&format!("{line}\n{line}")).contains("line 3"));
        assert!(refusal(&format!("{line}{line}")).contains("1/5 again, after line 1"));
        assert!(refusal(&format!("{line}{{}}")).contains("line 2"));
    }
}
