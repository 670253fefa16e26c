//! Which credentials were good lately, and from where: the last of them, in a table of fixed size.
//!
//! Each address with its credentials has a place in one bucket of [`WAYS`], by a hash that is secret to this process, and
//! the oldest of a bucket makes room for the next. Of the hash 32 bits are kept to tell them apart, so a stranger is taken
//! for somebody else once in 500 million times; what that gives him is that his guess is looked at.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, so that cores seldom meet at one.
const SHARDS: usize = 64;
/// Places in a bucket: together one line of a cache.
const WAYS: usize = 8;

pub(crate) struct Trusted {
    hasher: RandomState,
    shards: Box<[Mutex<Box<[Bucket]>>]>,
}

type Bucket = [Entry; WAYS];

#[derive(Clone, Copy, Default)]
struct Entry {
    print: u32,
    /// The last second in which it is trusted; 0: nobody was here yet.
    until: u32,
}

impl Trusted {
    /// Room for `entries`, or up to twice as many.
    pub(crate) fn new(entries: usize) -> Trusted {
        let buckets = (entries / SHARDS / WAYS).next_power_of_two();
        let shard = || Mutex::new(vec![Bucket::default(); buckets].into_boxed_slice());
        Trusted { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// Whether it is trusted in this second.
    pub(crate) fn knows(&self, who: impl Hash, second: u32) -> bool {
        let (mut shard, bucket, print) = self.place(who);
        bucket_of(&mut shard, bucket).iter().any(|entry| entry.print == print && entry.until >= second.max(1))
    }

    /// Trusts it until the end of a second.
    pub(crate) fn trust(&self, who: impl Hash, until: u32) {
        let (mut shard, bucket, print) = self.place(who);
        let bucket = bucket_of(&mut shard, bucket);
        let own = bucket.iter().position(|entry| entry.print == print);
        let oldest = (0..WAYS).min_by_key(|way| bucket[*way].until);
        if let Some(way) = own.or(oldest) {
            bucket[way] = Entry { print, until };
        }
    }

    fn place(&self, who: impl Hash) -> (MutexGuard<'_, Box<[Bucket]>>, usize, u32) {
        let hash = self.hasher.hash_one(who);
        // A panic while an entry was written leaves an entry.
        let shard = self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        (shard, (hash >> 6) as usize, (hash >> 32) as u32)
    }
}

fn bucket_of(shard: &mut [Bucket], number: usize) -> &mut Bucket {
    let mask = shard.len() - 1;
    &mut shard[number & mask]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_good_is_known_until_his_time_is_over_and_nobody_else_is() {
        let trusted = Trusted::new(1 << 12);
        assert!(!trusted.knows(("a", 1), 0));
        trusted.trust(("a", 1), 10);
        assert!(trusted.knows(("a", 1), 0) && trusted.knows(("a", 1), 10) && !trusted.knows(("a", 1), 11));
        trusted.trust(("a", 1), 20);
        assert!(trusted.knows(("a", 1), 11));
        assert!((2..100_000).all(|n| !trusted.knows(("a", n), 0)));
    }

    #[test]
    fn a_full_table_forgets_the_oldest_and_takes_no_stranger_for_a_friend() {
        let trusted = Trusted::new(1 << 12);
        for n in 0..100_000u32 {
            trusted.trust(n, n + 1_000);
        }
        assert!((99_500..100_000).all(|n| trusted.knows(n, 0)), "the latest are known");
        let known = (0..100_000u32).filter(|n| trusted.knows(n, 0)).count();
        assert!((3_500..=1 << 12).contains(&known), "{known}");
        let strangers = (100_000..1_000_000u32).filter(|n| trusted.knows(n, 0)).count();
        assert!(strangers < 4, "{strangers} of 900000");
    }
}
