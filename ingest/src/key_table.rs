//! The state of rate limits for any number of keys in a table of fixed size.
//!
//! A map from key to state grows with every new key, and `device_id` is whatever a stranger sends: a map with a cap
//! must then either forget somebody (who gets a fresh burst) or refuse newcomers. This table does neither. Each key has
//! two cells at places that depend on a secret hash; its state is the *earlier* of the two, and an update raises both to
//! at least the new state. So (as in a count-min sketch with conservative update):
//!
//! - A cell is never earlier than the state of any key that uses it: no key gets more than its limit, ever.
//! - A key is held back too early only if *both* its cells are shared with keys that are themselves near their limit.
//! - Nothing is allocated, evicted or swept after start, and millions of made-up keys cost nothing: a key that has not
//!   used up its rate leaves a state in the past, which holds nobody back.
//!
//! A state is the theoretical arrival time of GCRA in nanoseconds, which governor computes.

use governor::nanos::Nanos;
use governor::state::StateStore;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks, so that cores seldom meet at one. Both cells of a key are under one lock, which makes updates exact.
const SHARDS: usize = 64;

/// Cheap to clone; clones share the cells.
#[derive(Clone)]
pub(crate) struct KeyTable {
    hasher: RandomState,
    shards: Arc<[Mutex<Box<[u64]>>]>,
    mask: usize,
}

/// Where the state of a key is, and whether a new state is to be kept there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    hash: u64,
    keep: bool,
}

impl Place {
    /// For a limiter that is asked and does not count.
    pub(crate) fn only_asked(self) -> Place {
        Place { keep: false, ..self }
    }
}

impl KeyTable {
    /// A table in which `keys` keys can be active at once and seldom disturb each other: two cells for each.
    pub(crate) fn new(keys: u32) -> KeyTable {
        let cells = (keys as usize * 2 / SHARDS).next_power_of_two();
        let shards = (0..SHARDS).map(|_| Mutex::new(vec![0; cells].into_boxed_slice())).collect();
        KeyTable { hasher: RandomState::new(), shards, mask: cells - 1 }
    }

    /// The key's place in the table. Secret to this process, so nobody can aim at the cells of somebody else.
    pub(crate) fn place(&self, key: impl Hash) -> Place {
        Place { hash: self.hasher.hash_one(key), keep: true }
    }

    /// The share of cells that are later than `now`: near 1, the table is too small for the traffic.
    pub(crate) fn busy_ratio(&self, now: Nanos) -> f64 {
        let busy = |cells: MutexGuard<'_, Box<[u64]>>| cells.iter().filter(|tat| **tat > now.as_u64()).count();
        let busy: usize = self.shards.iter().map(|shard| busy(lock(shard))).sum();
        busy as f64 / ((self.mask + 1) * SHARDS) as f64
    }
}

impl StateStore for KeyTable {
    type Key = Place;

    fn measure_and_replace<T, F, E>(&self, place: &Place, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let hash = place.hash as usize;
        let (shard, a, b) = (hash % SHARDS, (hash >> 6) & self.mask, (hash >> 35) & self.mask);
        let mut cells = lock(&self.shards[shard]);
        let state = cells[a].min(cells[b]);
        let (outcome, next) = decide((state > 0).then(|| Nanos::new(state)))?;
        if place.keep {
            cells[a] = cells[a].max(next.as_u64());
            cells[b] = cells[b].max(next.as_u64());
        }
        Ok(outcome)
    }
}

/// A panic while a cell was written leaves a number, and every number is a valid state.
fn lock(shard: &Mutex<Box<[u64]>>) -> MutexGuard<'_, Box<[u64]>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use governor::middleware::NoOpMiddleware;
    use governor::state::InMemoryState;
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::num::NonZeroU32;
    use std::time::Duration;

    type Limiter = RateLimiter<Place, KeyTable, FakeRelativeClock, NoOpMiddleware<Nanos>>;

    fn quota(burst: u32) -> Quota {
        Quota::with_period(Duration::from_millis(100)).unwrap().allow_burst(NonZeroU32::new(burst).unwrap())
    }

    #[test]
    fn memory_does_not_grow_with_millions_of_keys_and_a_newcomer_still_gets_through() {
        let clock = FakeRelativeClock::default();
        let table = KeyTable::new(10_000);
        let size = || table.shards.iter().map(|shard| lock(shard).len()).sum::<usize>();
        let before = size();
        let limiter = Limiter::new(quota(10), table.clone(), clock.clone());
        let mut refused = 0;
        for key in 0..3_000_000u64 {
            clock.advance(Duration::from_micros(10));
            refused += u32::from(limiter.check_key(&table.place(key)).is_err());
        }
        assert_eq!(refused, 0, "keys that come once each stay below every limit");
        assert_eq!(size(), before);
    }

    #[test]
    fn keys_near_their_limit_do_not_disturb_others_when_the_table_is_large_enough() {
        let clock = FakeRelativeClock::default();
        let table = KeyTable::new(10_000);
        let limiter = Limiter::new(quota(10), table.clone(), clock);
        let places: Vec<Place> = (0..10_000u64).map(|key| table.place(key)).collect();
        for place in &places[..5_000] {
            while limiter.check_key(place).is_ok() {}
        }
        let held_back = places[5_000..].iter().filter(|place| limiter.check_key(place).is_err()).count();
        assert!(held_back < 1_000, "{held_back} of 5000 were held back by strangers");
    }

    proptest! {
        #[test]
        fn no_key_gets_more_than_a_limiter_of_its_own_would_give(
            steps in prop::collection::vec((0u64..200, 0u64..60), 1..400),
        ) {
            let clock = FakeRelativeClock::default();
            // One cell per shard is the worst case: all keys of a shard share both their cells.
            let table = KeyTable::new(1);
            let crowded = Limiter::new(quota(3), table.clone(), clock.clone());
            let mut own = HashMap::new();
            for (key, pause) in steps {
                clock.advance(Duration::from_millis(pause));
                if crowded.check_key(&table.place(key)).is_ok() {
                    let own = own.entry(key).or_insert_with(|| RateLimiter::<_, InMemoryState, _, _>::direct_with_clock(quota(3), clock.clone()));
                    prop_assert!(own.check().is_ok(), "key {} was granted too much", key);
                }
            }
        }
    }
}
