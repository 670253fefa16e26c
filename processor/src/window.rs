//! Decides whether an event was seen before: the same `id` of the same device, within the dataset's `dedup_window`. Pure.
//!
//! A window belongs to one partition and knows of each row only a fingerprint and when it was received. Time is that of
//! the records, not of the clock, so a backlog is treated as it would have been when it came. Keys lie in slices of
//! time, each a hash table that is dropped whole: expiry costs nothing, and a look-up asks a handful.
//!
//! Taking two events for one would lose an event, so fingerprints have 128 bits and are made with a random key that
//! nobody outside this process knows: ids cannot be chosen to collide.
//!
//! Memory is bounded: where there is no room the oldest slice goes early. The window gets shorter, never larger
//! (invariant I7 in `lake`).

use hashbrown::HashTable;
use siphasher::sip128::SipHasher13;
use std::collections::VecDeque;
use std::time::Duration;

/// The random key of the fingerprints, the same for all windows of a process.
#[derive(Debug, Clone, Copy)]
pub struct Secret(u64, u64);

/// What a window keeps of a device and an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u32; 4]);

/// The keys of one partition that were received in the last `span`.
#[derive(Debug)]
pub struct Window {
    secret: Secret,
    /// Microseconds, as all times here.
    span: i64,
    /// Time that one slice covers.
    slice: i64,
    /// Bytes that all slices may take.
    limit: usize,
    /// By number, the oldest first. A slice that is full is followed by another of the same number.
    slices: VecDeque<Slice>,
    newest: Option<i64>,
    /// Keys before are not all here, for want of memory.
    complete_from: Option<i64>,
    /// Reused between fingerprints.
    text: Vec<u8>,
}

/// Keys received in `[number * slice, (number + 1) * slice)`.
#[derive(Debug)]
struct Slice {
    number: i64,
    latest: i64,
    keys: HashTable<Key>,
}

/// 20 bytes: what is left of a time after its slice fits into 32 bits.
#[derive(Debug, Clone, Copy)]
struct Key {
    fingerprint: Fingerprint,
    after: u32,
}

/// Slices of a window; one more is there while the oldest runs out.
const SLICES: i64 = 4;
/// No slice takes more than this part of the memory: so much is lost when one goes early.
const LARGEST_SLICE: usize = 4;
/// Keys for which a new slice has room.
const FIRST_KEYS: usize = 56;
/// Bytes of a table for so many keys, at most: a power of two of places, of which one in eight stays free, each with a
/// byte of its own, and some more at the end.
const fn table_bytes(keys: usize) -> usize {
    let places = (keys.div_ceil(7) * 8).next_power_of_two();
    places * (size_of::<Key>() + 1) + 64
}

impl Secret {
    pub fn random() -> Secret {
        Secret(rand::random(), rand::random())
    }
}

impl Fingerprint {
    /// The part by which tables find it; it is as good as any other.
    fn hash(&self) -> u64 {
        u64::from(self.0[0]) | u64::from(self.0[1]) << 32
    }
}

impl Window {
    /// An empty window that takes at most `limit` bytes.
    pub fn new(span: Duration, limit: usize, secret: Secret) -> Window {
        let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Window {
            secret,
            span,
            slice: (span / SLICES).clamp(1, i64::from(u32::MAX)),
            limit,
            slices: VecDeque::new(),
            newest: None,
            complete_from: None,
            text: Vec::new(),
        }
    }

    /// What the window would keep of an event.
    pub fn fingerprint(&mut self, device_id: &str, id: &str) -> Fingerprint {
        self.text.clear();
        // Where the one ends and the other begins must count as well.
        self.text.extend_from_slice(&(device_id.len() as u32).to_le_bytes());
        self.text.extend_from_slice(device_id.as_bytes());
        self.text.extend_from_slice(id.as_bytes());
        let (a, b) = SipHasher13::new_with_keys(self.secret.0, self.secret.1).hash(&self.text).as_u64();
        Fingerprint([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }

    /// Whether an event received `at` repeats one that is here and was received at most the span before or after it. If
    /// not it is here from now on: a repeated event does not prolong the time of the first.
    pub fn repeats(&mut self, device_id: &str, id: &str, at: i64) -> bool {
        let fingerprint = self.fingerprint(device_id, id);
        let repeats = self.slices.iter().rev().any(|slice| {
            at.saturating_sub(slice.latest) <= self.span
                && slice
                    .find(fingerprint)
                    .is_some_and(|key| slice.time(key, self.slice).abs_diff(at) <= self.span as u64)
        });
        if !repeats {
            self.insert(fingerprint, at);
        }
        repeats
    }

    /// Takes in the key of a row that is in the table.
    pub fn remember(&mut self, device_id: &str, id: &str, at: i64) {
        let fingerprint = self.fingerprint(device_id, id);
        let number = at.div_euclid(self.slice);
        let after = at.rem_euclid(self.slice) as u32;
        // Rows may be there twice: written while this was off, or beyond the memory of the window.
        for slice in self.slices.iter_mut().filter(|slice| slice.number == number) {
            if let Some(key) = slice.keys.find_mut(fingerprint.hash(), |key| key.fingerprint == fingerprint) {
                key.after = key.after.max(after);
                slice.latest = slice.latest.max(at);
                return;
            }
        }
        self.insert(fingerprint, at);
    }

    /// When the latest of its keys was received.
    pub fn newest(&self) -> Option<i64> {
        self.newest
    }

    /// The time before which no key matters.
    pub fn horizon(&self) -> i64 {
        let horizon = self.newest.map_or(i64::MIN, |newest| newest.saturating_sub(self.span));
        self.complete_from.map_or(horizon, |from| from.max(horizon))
    }

    /// Whether keys that are not too old went for want of memory.
    pub fn is_cut(&self) -> bool {
        self.complete_from.zip(self.newest).is_some_and(|(from, newest)| from > newest.saturating_sub(self.span))
    }

    /// How far back repeated events are recognised now.
    pub fn reaches_back(&self) -> Duration {
        let reach = match (self.complete_from, self.newest) {
            (Some(from), Some(newest)) => newest.saturating_sub(from).clamp(0, self.span),
            _ => self.span,
        };
        Duration::from_micros(reach as u64)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.slices.iter().map(|slice| slice.keys.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the keys take.
    pub fn bytes(&self) -> usize {
        self.slices.iter().map(Slice::bytes).sum()
    }

    /// Changes how many bytes it may take.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        while self.bytes() > limit
            && let Some(oldest) = self.oldest()
        {
            self.drop_slice(oldest);
        }
    }

    fn insert(&mut self, fingerprint: Fingerprint, at: i64) {
        if at < self.horizon() {
            return;
        }
        self.expire(at);
        let number = at.div_euclid(self.slice);
        let Some(index) = self.make_room(number, at) else {
            self.complete_from = self.complete_from.max(Some(at + 1));
            return;
        };
        let slice = &mut self.slices[index];
        slice.latest = slice.latest.max(at);
        let key = Key { fingerprint, after: at.rem_euclid(self.slice) as u32 };
        slice.keys.insert_unique(fingerprint.hash(), key, |key| key.fingerprint.hash());
    }

    /// Drops what is too old once an event received `at` is there.
    fn expire(&mut self, at: i64) {
        if self.newest.is_some_and(|newest| newest >= at) {
            return;
        }
        self.newest = Some(at);
        let horizon = at.saturating_sub(self.span);
        while self.slices.front().is_some_and(|slice| slice.latest < horizon) {
            self.slices.pop_front();
        }
    }

    /// The slice of a number that can take a key received `at` within the memory; `None` if only younger keys have room.
    fn make_room(&mut self, number: i64, at: i64) -> Option<usize> {
        let next = self.after(number);
        let last = next.checked_sub(1).filter(|last| self.slices[*last].number == number);
        if let Some(last) = last {
            let slice = &self.slices[last];
            if slice.keys.len() < slice.keys.capacity() {
                return Some(last);
            }
            // It doubles, and while it does so the old and the new table are both there.
            let grown = 2 * slice.bytes();
            if grown <= self.limit / LARGEST_SLICE {
                return self.drop_until_fits(grown, Some(last), at).then(|| self.after(number) - 1);
            }
        }
        let keys = self.first_keys(next);
        if !self.drop_until_fits(table_bytes(keys), None, at) {
            return None;
        }
        let index = self.after(number);
        self.slices.insert(index, Slice { number, latest: i64::MIN, keys: HashTable::with_capacity(keys) });
        Some(index)
    }

    /// The place behind all slices of a number.
    fn after(&self, number: i64) -> usize {
        self.slices.partition_point(|slice| slice.number <= number)
    }

    /// For how many keys to make room at once: as many as the last slice has, so that it need not grow again and again.
    fn first_keys(&self, index: usize) -> usize {
        let before = index.checked_sub(1).map_or(0, |before| self.slices[before].keys.len());
        let fits = table_bytes(before) <= self.limit / LARGEST_SLICE;
        if fits { before.max(FIRST_KEYS) } else { FIRST_KEYS }
    }

    /// Drops the oldest slices until `bytes` more fit. False if that would take `kept`, or keys younger than `at`, for
    /// which the room is wanted: a table is read from its youngest rows backwards.
    fn drop_until_fits(&mut self, bytes: usize, mut kept: Option<usize>, at: i64) -> bool {
        while self.bytes() + bytes > self.limit {
            match self.oldest() {
                Some(oldest) if Some(oldest) != kept && self.slices[oldest].latest <= at => {
                    self.drop_slice(oldest);
                    kept = kept.map(|kept| kept - usize::from(kept > oldest));
                }
                _ => return false,
            }
        }
        true
    }

    /// Slices of one number stand in the order in which they were begun, which need not be that of their keys.
    fn oldest(&self) -> Option<usize> {
        (0..self.slices.len()).min_by_key(|index| self.slices[*index].latest)
    }

    fn drop_slice(&mut self, index: usize) {
        if let Some(slice) = self.slices.remove(index) {
            self.complete_from = self.complete_from.max(Some(slice.latest + 1));
        }
    }
}

impl Slice {
    fn find(&self, fingerprint: Fingerprint) -> Option<&Key> {
        self.keys.find(fingerprint.hash(), |key| key.fingerprint == fingerprint)
    }

    fn time(&self, key: &Key, slice: i64) -> i64 {
        self.number * slice + i64::from(key.after)
    }

    fn bytes(&self) -> usize {
        self.keys.allocation_size()
    }
}

#[cfg(test)]
mod tests;
