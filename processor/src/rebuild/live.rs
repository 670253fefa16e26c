//! Finds the latest rows in the files that are live, for partitions whose rows are not in those of the commits.
//!
//! The files with a partition's latest offsets come first, for they tell how old the others may be. A file that is merged
//! away meanwhile makes the whole attempt start over, at a version that has what replaced it.

use super::rows::{Read, not_now};
use super::{FILES, Parts, Rebuilder, Search, lock, reaches, searched};
use crate::window::Window;
use futures::{StreamExt, TryStreamExt};
use lake::DataFile;
use std::collections::BTreeMap;
use std::sync::Mutex;

impl Rebuilder {
    /// Reads live files for the partitions that still need them: first those with the latest offsets, from which it
    /// follows how old the others may be.
    pub(super) async fn read_live(&self, parts: &Mutex<Parts>, version: u64) -> anyhow::Result<()> {
        let wanted = searched(parts, Search::Live);
        if wanted.is_empty() {
            return Ok(());
        }
        let of_wanted = wanted.clone();
        let is_wanted = move |file: &DataFile| !reaches(file, &of_wanted).is_empty();
        let mut files = self.table.find_files(version, is_wanted).await?;
        files.sort_by_key(|file| std::cmp::Reverse(file.modified_ms));
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, end) in files.iter().flat_map(|file| reaches(file, &wanted)) {
            let last = last.entry(partition).or_insert(end);
            *last = end.max(*last);
        }
        let has_last = |file: &DataFile| reaches(file, &wanted).iter().any(|(partition, end)| last[partition] == *end);
        let (first, others): (Vec<DataFile>, Vec<DataFile>) = files.into_iter().partition(has_last);
        self.read_all(parts, first).await?;
        let is_young = |file: &DataFile| {
            let parts = lock(parts);
            let needs = |window: &Window| !window.is_cut() && file.modified_ms * 1_000 >= self.long_before(window);
            reaches(file, &wanted).iter().any(|(partition, _)| needs(&parts[partition].window))
        };
        // What was read tells which of the next are young.
        let mut others = others.into_iter();
        loop {
            let next: Vec<DataFile> = others.by_ref().filter(is_young).take(FILES).collect();
            if next.is_empty() {
                return Ok(());
            }
            self.read_all(parts, next).await?;
        }
    }

    async fn read_all(&self, parts: &Mutex<Parts>, files: Vec<DataFile>) -> anyhow::Result<()> {
        let live = lock(parts).values().filter(|part| part.search == Search::Live).map(|p| p.window.horizon()).min();
        let not_before = live.unwrap_or(i64::MIN);
        let mut read = futures::stream::iter(files)
            .map(|file| async move { anyhow::Ok((self.read(&file, parts, not_before).await?, file)) })
            .buffered(FILES);
        while let Some((read, file)) = read.try_next().await? {
            if matches!(read, Read::Gone) {
                // Merged away since the version was read; the next version has what replaced it.
                return Err(not_now(&file, "it is no longer live").into());
            }
        }
        Ok(())
    }
}
