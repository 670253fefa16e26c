//! Who goes first when the gateway cannot take everything: the lower class of datasets is refused first.
//!
//! What all requests share (the bytes in flight, the global rate) is never used up by a lower class: it may fill a part
//! of it, and the rest is kept for those above. The highest class that any dataset has may fill all, so a gateway whose
//! datasets are of one class keeps nothing back.

use lake::dataset::{Dataset, Priority};

/// The classes of the datasets of one gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Classes {
    highest: Priority,
}

impl Classes {
    pub(crate) fn of(datasets: &[Dataset]) -> Classes {
        Classes { highest: datasets.iter().map(|dataset| dataset.spec.priority).max().unwrap_or_default() }
    }

    /// What requests of a class may fill.
    pub(crate) fn share(self, class: Priority) -> Share {
        Share(match class {
            class if class >= self.highest => 100,
            Priority::High | Priority::Normal => 80,
            Priority::Low => 50,
        })
    }
}

/// The part, in percent, that requests of one class may fill of what all have together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(u8);

impl Share {
    pub(crate) fn of(self, whole: u64) -> u64 {
        (u128::from(whole) * u128::from(self.0) / 100) as u64
    }

    /// How many of `max` bytes in flight it may fill; an idle gateway takes the `largest` request of any class.
    pub(crate) fn of_bytes_in_flight(self, max: usize, largest: usize) -> usize {
        (self.of(max as u64) as usize).clamp(largest.min(max), max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{High, Low, Normal};
    use lake::dataset::DatasetSpec;
    use proptest::prelude::*;

    fn classes(priorities: &[Priority]) -> Classes {
        let dataset = |priority| Dataset::new("x", DatasetSpec { priority, ..DatasetSpec::default() }).unwrap();
        Classes::of(&priorities.iter().copied().map(dataset).collect::<Vec<_>>())
    }

    #[test]
    fn the_highest_class_there_is_may_fill_all() {
        for (there, parts) in [
            (&[Low, Normal, High][..], [50, 80, 100]),
            (&[Low, Normal], [50, 100, 100]),
            (&[Low, High], [50, 80, 100]),
            (&[Low], [100, 100, 100]),
            (&[Normal], [50, 100, 100]),
        ] {
            assert_eq!([Low, Normal, High].map(|class| classes(there).share(class).of(100)), parts, "{there:?}");
        }
        assert_eq!(classes(&[High]).share(Low).of(u64::MAX), u64::MAX / 2);
    }

    proptest! {
        #[test]
        fn no_class_fills_more_than_a_higher_one_and_each_takes_the_largest_request(
            max in 1usize..usize::MAX, largest: usize,
        ) {
            let largest = largest % max;
            let [low, normal, high] =
                [Low, Normal, High].map(|class| classes(&[Low, Normal, High]).share(class).of_bytes_in_flight(max, largest));
            prop_assert!(largest <= low && low <= normal && normal <= high && high == max);
        }
    }
}
