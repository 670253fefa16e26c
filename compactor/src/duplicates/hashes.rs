//! Hashes of which only those matter that came more than once, in bounded memory.

use std::ops::RangeInclusive;

/// Marks a hash that came again. The hashes themselves are told apart by the other 63 bits.
pub(super) const AGAIN: u64 = 1;

/// Hashes that fit into so many bytes.
fn fitting(memory: u64) -> u64 {
    (memory / size_of::<u64>() as u64).max(1)
}

/// Rows whose hashes come in one range: a fifth of the place is kept free, for ranges are not exactly equal, and copies
/// are folded only when there is no place left.
pub(super) fn rows_in(memory: u64) -> u64 {
    fitting(memory) / 5 * 4
}

/// Cuts the space of hashes so that each range has about as many of the rows as fit into memory.
pub(super) fn ranges(rows: u64, memory: u64) -> impl Iterator<Item = RangeInclusive<u64>> {
    let count = if rows <= fitting(memory) { 1 } else { rows.div_ceil(rows_in(memory).max(1)) };
    let start = move |range: u64| ((u128::from(range) << 64) / u128::from(count)) as u64 & !AGAIN;
    (0..count).map(move |range| start(range)..=if range + 1 < count { start(range + 1) - 1 } else { u64::MAX })
}

pub(super) struct Hashes {
    /// Some of them folded: only the first of equal ones is left, marked.
    hashes: Vec<u64>,
    limit: usize,
}

impl Hashes {
    /// For one range of the hashes of so many rows.
    pub(super) fn new(rows: u64, memory: u64) -> Hashes {
        let limit = rows.min(fitting(memory)) as usize;
        Hashes { hashes: Vec::with_capacity(limit), limit }
    }

    pub(super) fn push(&mut self, hash: u64) {
        if self.hashes.len() >= self.limit {
            self.fold();
            // Only a range with far more than its share of different hashes needs more place.
            self.limit = self.limit.max(self.hashes.len() + self.hashes.len() / 16 + 1);
        }
        self.hashes.push(hash & !AGAIN);
    }

    fn fold(&mut self) {
        self.hashes.sort_unstable();
        self.hashes.dedup_by(|next, kept| {
            let is_same = (*next ^ *kept) <= AGAIN;
            *kept |= u64::from(is_same);
            is_same
        });
    }

    /// Those that came more than once, sorted.
    pub(super) fn repeated(mut self) -> Vec<u64> {
        self.fold();
        self.hashes.retain_mut(|hash| std::mem::replace(hash, *hash & !AGAIN) & AGAIN != 0);
        self.hashes.shrink_to_fit();
        self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// However little memory there is, and whatever share of them are copies.
        #[test]
        fn all_that_came_more_than_once_are_found_in_their_range(
            numbers in proptest::collection::vec(0..40u64, 0..200),
            memory in 1..2_000u64,
        ) {
            let hashes: Vec<u64> = numbers.iter().map(|n| (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
            let mut counts = BTreeMap::new();
            hashes.iter().for_each(|hash| *counts.entry(hash & !AGAIN).or_insert(0) += 1);
            let expected: Vec<u64> = counts.into_iter().filter(|(_, count)| *count > 1).map(|(hash, _)| hash).collect();
            let mut found = Vec::new();
            for range in ranges(hashes.len() as u64, memory) {
                let mut of_range = Hashes::new(hashes.len() as u64, memory);
                hashes.iter().filter(|hash| range.contains(hash)).for_each(|hash| of_range.push(*hash));
                found.extend(of_range.repeated());
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn one_key_in_every_row_takes_no_more_than_the_given_memory() {
        let (rows, memory) = (1_000_000, 80_000);
        let mut hashes = Hashes::new(rows, memory);
        let capacity = hashes.hashes.capacity();
        (0..rows).for_each(|row| hashes.push(if row % 200 == 0 { row << 8 } else { 77 << 32 }));
        assert_eq!(hashes.hashes.capacity(), capacity);
        assert!(capacity as u64 * 8 <= memory);
        assert_eq!(hashes.repeated(), [77 << 32]);
    }
}
