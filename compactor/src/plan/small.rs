//! Merges of small files, by their sizes and number.

use super::{Group, Policy, bytes};

/// Files of one level: none is larger than so many times the smallest.
const LEVEL: u64 = 8;

/// On a cold date, a file larger than so many times all smaller ones together is not rewritten for them.
const CRUMBS: u64 = 2;

/// On a date that is written to: nothing while a reader meets few small files. Then the level with most files is merged,
/// for there a write saves most, together with all that is smaller. Waiting for many files makes every merge a large step
/// towards a segment, so that few are needed, and lets merges of large fragments write several segments side by side.
///
/// `files` are sorted by size.
pub(super) fn lift(mut files: Group, policy: &Policy) -> Vec<Group> {
    if files.len() < policy.small_files {
        return Vec::new();
    }
    let (mut most, mut most_end, mut start) = (0, 0, 0);
    for end in 1..=files.len() {
        if files.get(end).is_none_or(|next| next.size > LEVEL * files[start].size) {
            if end - start > most {
                (most, most_end) = (end - start, end);
            }
            start = end;
        }
    }
    files.truncate(most_end);
    policy.groups(files, |group| group.len() >= policy.min_files)
}

/// On a cold date: all of them, but for files so much larger than the others that they would be rewritten for crumbs.
///
/// `files` are sorted by size.
pub(super) fn gather(mut files: Group, policy: &Policy) -> Vec<Group> {
    let mut smaller = bytes(&files);
    while let Some(largest) = files.last() {
        smaller -= largest.size;
        if largest.size <= CRUMBS * smaller {
            break;
        }
        files.pop();
    }
    policy.groups(files, |group| group.len() >= 2)
}
