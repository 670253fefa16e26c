//! When what is found in files counts, while others write them.
//!
//! They are looked at twice a second, and what they hold is compared, not their time stamps: that sees a file replaced by
//! `rename`, one edited in place, and the links by which Kubernetes swaps a mounted secret. What is new counts when it
//! was the same twice: half of a file that is just being written is not taken for all of it, nor a certificate without
//! the key that is written after it.

use std::time::Duration;

/// How often files are looked at. They are small.
pub(crate) const EVERY: Duration = Duration::from_millis(500);

/// What was found at the last look, and whether it was decided on.
pub(crate) struct Settled<T> {
    found: T,
    decided: bool,
}

impl<T: PartialEq> Settled<T> {
    /// What was decided on at the start.
    pub(crate) fn new(found: T) -> Settled<T> {
        Settled { found, decided: true }
    }

    /// What is found now, if it is to be decided on now: it is new, and the same as at the last look.
    pub(crate) fn look(&mut self, found: T) -> Option<&T> {
        if self.found != found {
            *self = Settled { found, decided: false };
            return None;
        }
        let is_new = !std::mem::replace(&mut self.decided, true);
        is_new.then_some(&self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_counts_once_when_it_was_the_same_twice() {
        let mut settled = Settled::new(1);
        assert_eq!([1, 2, 3, 3, 3, 4, 4].map(|found| settled.look(found).copied()).iter().flatten().count(), 2);
        assert_eq!([5, 5, 5].map(|found| settled.look(found).copied()), [None, Some(5), None]);
    }
}
