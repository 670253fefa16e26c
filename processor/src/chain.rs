//! Decides which flushes continue what the table has (invariant I3). Pure.
//!
//! Per partition the table knows the next offset to read, its `txn`. A flush holds ranges of several partitions and is
//! taken whole or not at all.

use lake::OffsetRange;
use std::collections::HashMap;

/// The fate of a flush against one version of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Every range starts where the table, with the flushes accepted before, ends.
    Accept,
    /// The table already has all its offsets: another attempt, or another processor, committed them. Records never
    /// change, so the rows are the same.
    Done,
    /// Some range starts before the table's end: the work of a processor that lost the partition.
    Reject,
    /// Some range starts after the table's end: what lies between may still come.
    Hold,
}

/// Decides about `pending` flushes in the order of their arrival, as if the accepted ones were committed together.
/// A partition that the table does not know yet may start anywhere.
pub fn decide(txns: &HashMap<i32, i64>, pending: &[&[OffsetRange]]) -> Vec<Decision> {
    let mut next = txns.clone();
    let mut decisions = vec![Decision::Hold; pending.len()];
    loop {
        let mut moved = false;
        for (decision, ranges) in decisions.iter_mut().zip(pending) {
            if *decision != Decision::Hold {
                continue;
            }
            *decision = decide_one(&next, ranges);
            if *decision == Decision::Accept {
                next.extend(ranges.iter().map(|range| (range.partition, range.end)));
                moved = true;
            }
        }
        // An accepted flush may be what a held one waited for.
        if !moved {
            return decisions;
        }
    }
}

fn decide_one(next: &HashMap<i32, i64>, ranges: &[OffsetRange]) -> Decision {
    let at = |range: &OffsetRange| next.get(&range.partition).copied();
    if ranges.iter().all(|range| at(range).is_some_and(|next| range.end <= next)) {
        Decision::Done
    } else if ranges.iter().any(|range| at(range).is_some_and(|next| range.start < next)) {
        Decision::Reject
    } else if ranges.iter().all(|range| at(range).is_none_or(|next| range.start == next)) {
        Decision::Accept
    } else {
        Decision::Hold
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::*;
    use super::*;
    use proptest::prelude::*;

    fn r(partition: i32, start: i64, end: i64) -> OffsetRange {
        OffsetRange { partition, start, end }
    }

    fn decisions(txns: &[(i32, i64)], pending: &[&[OffsetRange]]) -> Vec<Decision> {
        decide(&txns.iter().copied().collect(), pending)
    }

    #[test]
    fn a_flush_is_measured_by_where_the_table_ends() {
        let cases: [(&[OffsetRange], Decision); 6] = [
            (&[r(0, 10, 20)], Accept),
            (&[r(0, 11, 20)], Hold),
            (&[r(0, 9, 20)], Reject),
            (&[r(0, 5, 10)], Done),
            (&[r(7, 3, 4)], Accept),
            (&[r(0, 10, 20), r(1, 4, 9)], Reject),
        ];
        for (ranges, decision) in cases {
            assert_eq!(decisions(&[(0, 10), (1, 5)], &[ranges]), [decision], "{ranges:?}");
        }
    }

    #[test]
    fn flushes_that_come_out_of_order_are_put_in_order() {
        let pending: [&[OffsetRange]; 3] = [&[r(0, 20, 30)], &[r(0, 10, 20)], &[r(0, 40, 50)]];
        assert_eq!(decisions(&[(0, 10)], &pending), [Accept, Accept, Hold]);
    }

    #[test]
    fn of_two_copies_one_is_taken() {
        let pending: [&[OffsetRange]; 3] = [&[r(0, 10, 20)], &[r(0, 10, 20)], &[r(0, 10, 25)]];
        assert_eq!(decisions(&[(0, 10)], &pending), [Accept, Done, Reject]);
    }

    proptest! {
        /// Whatever is handed in, the accepted ranges continue the table without gap or overlap.
        #[test]
        fn accepted_ranges_form_a_chain(
            flushes in proptest::collection::vec(
                proptest::collection::btree_map(0..3i32, (0..8i64, 1..4i64), 1..3),
                0..12,
            ),
        ) {
            let flushes: Vec<Vec<OffsetRange>> = flushes
                .into_iter()
                .map(|ranges| ranges.into_iter().map(|(p, (start, len))| r(p, start * 2, (start + len) * 2)).collect())
                .collect();
            let txns: HashMap<i32, i64> = (0..3).map(|p| (p, 4)).collect();
            let pending: Vec<&[OffsetRange]> = flushes.iter().map(Vec::as_slice).collect();
            let decisions = decide(&txns, &pending);
            for partition in 0..3 {
                let mut ranges: Vec<_> = flushes
                    .iter()
                    .zip(&decisions)
                    .filter(|(_, decision)| **decision == Accept)
                    .flat_map(|(ranges, _)| ranges.iter().filter(|range| range.partition == partition))
                    .collect();
                ranges.sort();
                let mut next = 4;
                for range in ranges {
                    prop_assert_eq!(range.start, next);
                    next = range.end;
                }
            }
        }
    }
}
