//! Finds the latest rows in the files that the latest commits added.
//!
//! Commits are followed backwards. The search ends for a partition once everything earlier is too old for its window, or
//! the window is full. It goes over to the live files where commits do not tell: the log was cleaned up, a file is gone,
//! or nothing was committed for longer than a window reaches.

use super::rows::Read;
use super::{FILES, Parts, Rebuilder, Search, lock, reaches, searched, settle};
use crate::committer::app_id;
use futures::{StreamExt, TryStreamExt};
use lake::DataFile;
use lake::actions::Action;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Commits that are read at a time.
const COMMITS: usize = 32;

impl Rebuilder {
    /// Reads what the commits up to `version` added, the latest first.
    pub(super) async fn follow_commits(&self, parts: &Mutex<Parts>, version: u64) -> anyhow::Result<()> {
        // Version 0 only creates the table.
        let commits = (1..=version).rev().map(|version| self.table.read_commit(version));
        let mut commits = futures::stream::iter(commits).buffered(COMMITS).chunks(COMMITS);
        let mut oldest_ms = None;
        while let Some(chunk) = commits.next().await {
            let mut files = Vec::new();
            let mut at_ms = i64::MAX;
            for actions in chunk {
                let Some(actions) = actions? else {
                    // Somebody cleaned up the log.
                    settle(parts, Search::Unseen, Search::Live);
                    settle(parts, Search::Following, Search::Live);
                    break;
                };
                at_ms = committed_at(&actions).min(at_ms);
                if at_ms < *oldest_ms.get_or_insert(at_ms.saturating_sub(self.reach().as_millis() as i64)) {
                    settle(parts, Search::Unseen, Search::Live);
                }
                self.see(&actions, parts);
                files.push((committed_at(&actions).saturating_mul(1_000), added(&actions, parts)?));
            }
            self.read_commits(parts, files).await?;
            let is_idle = oldest_ms.is_some_and(|oldest_ms| at_ms < oldest_ms);
            self.finish_older(parts, at_ms.saturating_mul(1_000), is_idle);
            if searched(parts, Search::Unseen).is_empty() && searched(parts, Search::Following).is_empty() {
                return Ok(());
            }
        }
        settle(parts, Search::Unseen, Search::Done);
        settle(parts, Search::Following, Search::Done);
        Ok(())
    }

    /// Notes of which partitions the offsets moved.
    fn see(&self, actions: &[Action], parts: &Mutex<Parts>) {
        let moved: Vec<&str> = actions.iter().filter_map(|action| Some(action.txn.as_ref()?.app_id.as_str())).collect();
        let mut parts = lock(parts);
        for (partition, part) in parts.iter_mut().filter(|(_, part)| part.search == Search::Unseen) {
            if moved.contains(&app_id(self.table.name(), *partition).as_str()) {
                part.search = Search::Following;
            }
        }
    }

    /// Ends the search for partitions of which everything committed before `at` is too old: a row is received before it
    /// is committed.
    fn finish_older(&self, parts: &Mutex<Parts>, at: i64, is_idle: bool) {
        for part in lock(parts).values_mut().filter(|part| part.search == Search::Following) {
            if at < self.long_before(&part.window) {
                part.search = Search::Done;
            } else if is_idle && part.window.newest().is_none() {
                // Its offsets moved, but over dead letters or gaps.
                part.search = Search::Live;
            }
        }
    }

    /// Reads the files of some commits, and finds out for which partitions that was enough.
    ///
    /// One commit of old rows says little of those before it: a dead letter that is replayed keeps the time at which it was
    /// received. In a backlog, on the other hand, all are of old rows, and commits as far back as those would be many.
    async fn read_commits(&self, parts: &Mutex<Parts>, commits: Vec<(i64, Vec<DataFile>)>) -> anyhow::Result<()> {
        let not_before = {
            let parts = lock(parts);
            let following = parts.values().filter(|part| part.search == Search::Following);
            following.map(|part| self.long_before(&part.window)).min().unwrap_or(i64::MIN)
        };
        let at: Vec<i64> = commits.iter().map(|(at, _)| *at).collect();
        let files = commits.into_iter().enumerate();
        let files = files.flat_map(|(n, (_, files))| files.into_iter().map(move |file| (n, file)));
        let mut read = futures::stream::iter(files)
            .map(|(n, file)| async move { anyhow::Ok((n, self.read(&file, parts, not_before).await?, file)) })
            .buffered(FILES);
        let mut latest: BTreeMap<(usize, i32), i64> = BTreeMap::new();
        while let Some((commit, rows, file)) = read.try_next().await? {
            let mut parts = lock(parts);
            for range in &file.ranges {
                let Some(part) = parts.get_mut(&range.partition) else { continue };
                match &rows {
                    Read::Gone => part.search = Search::Live,
                    Read::Rows(rows) => {
                        let row = rows.get(&range.partition).copied();
                        let latest = latest.entry((commit, range.partition)).or_insert(i64::MIN);
                        *latest = row.unwrap_or(i64::MIN).max(*latest);
                    }
                }
            }
        }
        for ((commit, partition), latest) in latest {
            let mut parts = lock(parts);
            let part = parts.get_mut(&partition).filter(|part| part.search == Search::Following);
            let Some(part) = part else { continue };
            let is_old = latest < self.long_before(&part.window);
            part.old_from = is_old.then(|| part.old_from.unwrap_or(at[commit]));
            let old_for = part.old_from.map_or(0, |from| from.saturating_sub(at[commit]));
            if part.window.is_cut() || old_for >= self.reach().as_micros() as i64 {
                part.search = Search::Done;
            }
        }
        Ok(())
    }
}

/// The files of a commit with new rows of partitions that are looked for in commits. A commit that takes files away, as a
/// merge or a deletion does, only writes rows anew that were there before.
fn added(actions: &[Action], parts: &Mutex<Parts>) -> anyhow::Result<Vec<DataFile>> {
    if actions.iter().any(|action| action.remove.is_some()) {
        return Ok(Vec::new());
    }
    let wanted = |below: &BTreeMap<i32, i64>, file: &DataFile| !reaches(file, below).is_empty();
    let mut below = searched(parts, Search::Unseen);
    below.append(&mut searched(parts, Search::Following));
    let adds = actions.iter().filter_map(|action| action.add.as_ref()).filter(|add| add.data_change);
    let files = adds.map(|add| add.to_file().map_err(anyhow::Error::msg)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| wanted(&below, file)).collect())
}

/// Milliseconds since the epoch.
fn committed_at(actions: &[Action]) -> i64 {
    actions.iter().find_map(|action| action.commit_info.as_ref()).map_or(i64::MAX, |info| info.timestamp)
}
