//! Remembers what became of each key, for so long and in so many bytes.
//!
//! The oldest answers go first, when their time is over or when the bytes are spent. What runs is never forgotten: there
//! is no more of it than there are requests under way.

use super::kept::Kept;
use super::key::{Key, Place};
use crate::answer::Report;
use crate::clock::Clock;
use crate::metrics;
use governor::clock::Clock as _;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What a key occupies beside its answer: its entry and its place in the queue, in tables that have just doubled.
const KEY_BYTES: usize = 200;

pub(super) struct Memory {
    window: Duration,
    max_bytes: usize,
    keys: Mutex<Keys>,
}

/// What is known of a key.
pub(super) enum Found<'a> {
    Nothing(Turn<'a>),
    /// Some events were accepted, and others must be sent again.
    Unfinished(Turn<'a>, Report),
    Final(Kept),
    /// Closes when the request has ended.
    Running(watch::Receiver<()>),
    OtherBody,
}

#[derive(Default)]
struct Keys {
    entries: HashMap<Place, Entry>,
    /// By the time of the first answer; each place at most once.
    oldest: VecDeque<Place>,
    bytes: usize,
}

struct Entry {
    body: (u64, u64),
    /// When it was first answered, if it is in the queue.
    answered: Option<Duration>,
    state: State,
}

enum State {
    Running(watch::Receiver<()>),
    Ended(Kept),
}

impl Memory {
    pub(super) fn new(window: Duration, max_bytes: usize) -> Memory {
        Memory { window, max_bytes, keys: Mutex::default() }
    }

    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Keys, and the bytes they take.
    pub(super) fn size(&self, clock: &Clock) -> (usize, usize) {
        let mut keys = self.lock();
        keys.expire(now(clock), self.window);
        (keys.entries.len(), keys.bytes)
    }

    /// What is known of the key. Whoever is given a turn is the only one until he ends or drops it.
    pub(super) fn begin(&self, key: Key, clock: &Clock) -> Found<'_> {
        let mut keys = self.lock();
        keys.expire(now(clock), self.window);
        let earlier = match keys.entries.get(&key.place) {
            None => None,
            Some(entry) if entry.body != key.body => return Found::OtherBody,
            Some(Entry { state: State::Running(running), .. }) => return Found::Running(running.clone()),
            Some(Entry { state: State::Ended(kept), .. }) if kept.is_final() => return Found::Final(kept.clone()),
            Some(Entry { state: State::Ended(kept), .. }) => Some(kept.clone()),
        };
        let (running, closes) = watch::channel(());
        let turn = Turn { memory: self, key, earlier: earlier.clone(), ended: false, _running: running };
        keys.start(key, closes);
        match earlier {
            None => Found::Nothing(turn),
            Some(kept) => Found::Unfinished(turn, kept.report()),
        }
    }

    pub(super) fn has_answered(&self, place: &Place, clock: &Clock) -> bool {
        let mut keys = self.lock();
        keys.expire(now(clock), self.window);
        let entry = keys.entries.get(place);
        entry.is_some_and(|entry| matches!(&entry.state, State::Ended(kept) if kept.is_final()))
    }

    /// A panic between two changes is not possible, so what is there is whole.
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run a request. Dropped without an end, everything is as it was before.
pub(super) struct Turn<'a> {
    memory: &'a Memory,
    key: Key,
    earlier: Option<Kept>,
    ended: bool,
    /// Who waits hears that it is dropped, which is after the outcome was entered.
    _running: watch::Sender<()>,
}

impl Turn<'_> {
    /// Remembers the outcome.
    pub(super) fn end(mut self, outcome: Kept, clock: &Clock) {
        self.ended = true;
        let mut keys = self.memory.lock();
        keys.end(self.key.place, outcome, now(clock));
        keys.shrink(self.memory.max_bytes, now(clock));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.memory.lock().stop(self.key.place, self.earlier.take());
        }
    }
}

impl Keys {
    fn start(&mut self, key: Key, running: watch::Receiver<()>) {
        let state = State::Running(running);
        match self.entries.get_mut(&key.place) {
            Some(entry) => {
                if let State::Ended(kept) = std::mem::replace(&mut entry.state, state) {
                    self.bytes -= kept.bytes();
                }
            }
            None => {
                self.entries.insert(key.place, Entry { body: key.body, answered: None, state });
                self.bytes += KEY_BYTES;
            }
        }
    }

    fn end(&mut self, place: Place, kept: Kept, now: Duration) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        self.bytes += kept.bytes();
        entry.state = State::Ended(kept);
        if entry.answered.is_none() {
            entry.answered = Some(now);
            self.oldest.push_back(place);
        }
    }

    /// The request came to nothing. What it began with is there again, unless its time is over.
    fn stop(&mut self, place: Place, earlier: Option<Kept>) {
        match (earlier, self.entries.get_mut(&place)) {
            (Some(kept), Some(entry)) if entry.answered.is_some() => {
                self.bytes += kept.bytes();
                entry.state = State::Ended(kept);
            }
            _ => self.remove(place),
        }
    }

    fn remove(&mut self, place: Place) {
        let Some(entry) = self.entries.remove(&place) else { return };
        self.bytes -= KEY_BYTES;
        if let State::Ended(kept) = entry.state {
            self.bytes -= kept.bytes();
        }
    }

    fn expire(&mut self, now: Duration, window: Duration) {
        while self.oldest_age(now).is_some_and(|age| age >= window) {
            self.forget_oldest();
        }
    }

    fn shrink(&mut self, max_bytes: usize, now: Duration) {
        while self.bytes > max_bytes
            && let Some(age) = self.oldest_age(now)
        {
            metrics::idempotency_evicted(age);
            self.forget_oldest();
        }
    }

    fn oldest_age(&self, now: Duration) -> Option<Duration> {
        let answered = self.entries.get(self.oldest.front()?)?.answered?;
        Some(now.saturating_sub(answered))
    }

    fn forget_oldest(&mut self) {
        let Some(place) = self.oldest.pop_front() else { return };
        match self.entries.get_mut(&place) {
            // Taken up again just now; its new answer will have its own time.
            Some(entry) if matches!(entry.state, State::Running(_)) => entry.answered = None,
            _ => self.remove(place),
        }
    }
}

fn now(clock: &Clock) -> Duration {
    clock.now().into()
}

#[cfg(test)]
mod tests;
