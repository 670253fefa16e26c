//! How compactors know of each other: each keeps an object `<lake>/_compactors/<uuid>` fresh and lists those of the others.
//!
//! Whoever did not write its object for a while is gone. That is measured between the times that the store itself has given
//! the objects, the newest of which is this compactor's own or newer, so no clock of any machine is asked. What is seen is
//! a hint for [`crate::share`]: a store that refuses announcements costs doubled work, never rows.

use crate::condition::{Condition, in_one_line};
use crate::metrics;
use crate::share::Share;
use futures::TryStreamExt;
use lake::Lake;
use lake::store::StoreError;
use lake::table::now_ms;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::json;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use uuid::Uuid;

/// Names of datasets begin with a letter or a digit.
const DIRECTORY: &str = "_compactors";

/// S3 tells times in whole seconds, so nobody is judged by less.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Who has not announced itself for so many intervals is gone.
const MISSED: u32 = 4;

/// An announcement so old was left behind by a compactor that crashed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A store that hangs must not hold up the start, nor the end.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
const LONGEST_GOODBYE: Duration = Duration::from_millis(500);

/// This process, for people who read announcements and the history of a table.
pub(crate) static PROCESS: LazyLock<String> = LazyLock::new(|| {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", if host.trim().is_empty() { "unknown" } else { host.trim() }, std::process::id())
});

/// One compactor's knowledge of all.
#[derive(Debug)]
pub(crate) struct Members {
    lake: Lake,
    me: Uuid,
    interval: Duration,
    started_ms: i64,
    condition: Condition,
    share: watch::Sender<Share>,
    /// Announcements that failed in a row.
    failures: u32,
    /// Whether that was told.
    is_told: bool,
}

impl Members {
    /// Knows of nobody else yet.
    pub(crate) fn new(lake: Lake, every: Duration, condition: Condition) -> (Members, watch::Receiver<Share>) {
        let me = Uuid::new_v4();
        let (share, shares) = watch::channel(Share::new(me, []));
        let (interval, started_ms) = (every.max(SHORTEST_INTERVAL), now_ms());
        (Members { lake, me, interval, started_ms, condition, share, failures: 0, is_told: false }, shares)
    }

    /// Makes this compactor known. Where there are others, it waits until they have looked: they leave it its share, and
    /// what they have begun of it is done by then or nearly so.
    pub(crate) async fn join(&mut self) {
        self.look().await;
        let present = self.share.borrow().present();
        if present > 1 {
            info!(compactors = present, wait_seconds = self.interval.as_secs(), "joining other compactors");
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Announces and looks, again and again, until dropped.
    pub(crate) async fn keep_up(&mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            self.look().await;
        }
    }

    /// Tells the others not to wait for this one.
    pub(crate) async fn leave(&self) {
        let (store, path) = (self.lake.store(), self.path(self.me));
        // Nobody to be told: the others will miss it.
        let _ = tokio::time::timeout(LONGEST_GOODBYE, store.delete(&path)).await;
    }

    /// One announcement and one look. If it fails, what is known stays.
    async fn look(&mut self) {
        let failed = match tokio::time::timeout(LONGEST_LOOK, self.announce()).await {
            Ok(Ok(seen)) => return self.seen(seen).await,
            Ok(Err(error)) => in_one_line(error),
            Err(_) => format!("no answer within {LONGEST_LOOK:?}"),
        };
        self.failures += 1;
        // An outage is told by the tables, which have failed by the second time.
        if self.failures > 1 && !self.is_told && self.condition.trouble().is_none() {
            self.is_told = true;
            warn!(error = failed, "cannot announce this compactor, others may do the same work; trying again");
        } else {
            debug!(error = failed, "announcement failed");
        }
        // The tables are reached, and of the others nothing is heard any more: what was left to them must not lie for ever.
        if self.failures > MISSED && self.condition.trouble().is_none() {
            self.know(Share::new(self.me, []));
        }
    }

    async fn announce(&self) -> Result<Vec<Seen>, StoreError> {
        let facts = json!({"process": *PROCESS, "startedMs": self.started_ms, "version": env!("CARGO_PKG_VERSION")});
        let (store, path) = (self.lake.store(), self.path(self.me));
        let failed = |operation, path: &Path| {
            let path = path.to_string();
            move |source| StoreError::Object { operation, path, source }
        };
        store.put(&path, facts.to_string().into()).await.map_err(failed("store", &path))?;
        let directory = self.lake.table_path(DIRECTORY);
        let objects = store.list(Some(&directory)).try_collect::<Vec<_>>().await.map_err(failed("list", &directory))?;
        let seen = |object: object_store::ObjectMeta| {
            let member = object.location.filename()?.parse().ok()?;
            Some(Seen { member, at_ms: object.last_modified.timestamp_millis() })
        };
        Ok(objects.into_iter().filter_map(seen).collect())
    }

    async fn seen(&mut self, seen: Vec<Seen>) {
        let Verdict { mut present, forgotten } = judge(&seen, self.interval * MISSED);
        if std::mem::take(&mut self.failures) > 0 {
            debug!("this compactor is announced again");
            self.is_told = false;
            self.condition.store_is_back();
            // The others may not have had the time to come back.
            present.extend(self.share.borrow().members());
        }
        self.know(Share::new(self.me, present));
        for member in forgotten {
            // Somebody else may have done it, or will.
            let _ = tokio::time::timeout(LONGEST_LOOK, self.lake.store().delete(&self.path(member))).await;
        }
    }

    fn know(&self, share: Share) {
        metrics::compactors_present(share.present());
        self.share.send_if_modified(|known| {
            let has_changed = *known != share;
            if has_changed {
                info!(compactors = share.present(), before = known.present(), "compactors share the work anew");
                *known = share;
            }
            has_changed
        });
    }

    fn path(&self, member: Uuid) -> Path {
        self.lake.table_path(DIRECTORY).join(member.to_string())
    }
}

/// An announcement in the store.
#[derive(Debug, Clone, Copy)]
struct Seen {
    member: Uuid,
    /// When the store got it, milliseconds since the epoch.
    at_ms: i64,
}

#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    present: Vec<Uuid>,
    forgotten: Vec<Uuid>,
}

/// Who is there, if whoever is silent for longer than `patience` is not.
fn judge(seen: &[Seen], patience: Duration) -> Verdict {
    let newest_ms = seen.iter().map(|seen| seen.at_ms).max().unwrap_or_default();
    let of_age = |is_wanted: &dyn Fn(Duration) -> bool| {
        let age = |seen: &&Seen| Duration::from_millis(newest_ms.abs_diff(seen.at_ms));
        seen.iter().filter(|seen| is_wanted(age(seen))).map(|seen| seen.member).collect()
    };
    Verdict { present: of_age(&|age| age <= patience), forgotten: of_age(&|age| age > FORGOTTEN_AFTER.max(patience)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::testing::{Fault, Op, faulty_lake};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    const PATIENCE: Duration = Duration::from_secs(4);

    /// Members 0, 1, 2 … whose announcements are so many seconds old by a clock that is wrong by `skew`.
    fn judged(ages: &[i64], skew: i64) -> Verdict {
        let seen = |(n, age): (usize, &i64)| Seen { member: Uuid::from_u128(n as u128), at_ms: (skew - age) * 1_000 };
        judge(&ages.iter().enumerate().map(seen).collect::<Vec<_>>(), PATIENCE)
    }

    fn ids(numbers: &[u128]) -> Vec<Uuid> {
        numbers.iter().map(|n| Uuid::from_u128(*n)).collect()
    }

    #[test]
    fn who_is_silent_is_gone_and_who_is_silent_for_a_day_is_forgotten() {
        let verdict = judged(&[0, 4, 5, 24 * 3600, 24 * 3600 + 1], 0);
        assert_eq!(verdict, Verdict { present: ids(&[0, 1]), forgotten: ids(&[4]) });
    }

    #[test]
    fn only_the_times_of_the_store_are_compared() {
        for skew in [-1_000_000, 0, 1_000_000] {
            assert_eq!(judged(&[100, 103, 200], skew).present, ids(&[0, 1]));
        }
        assert_eq!(judged(&[], 0), Verdict { present: Vec::new(), forgotten: Vec::new() });
    }

    const INTERVAL: i64 = 1_000;

    /// When a compactor announces itself, and when it does not: from its start to its end, if it has one, but for a time in
    /// which it hangs. Each announcement may be late.
    #[derive(Debug, Clone)]
    struct Life {
        start: i64,
        end: Option<i64>,
        hangs: std::ops::Range<i64>,
        late: i64,
    }

    fn life() -> impl Strategy<Value = Life> {
        let end = proptest::option::of(5_000..40_000i64);
        (0..20_000i64, end, 0..40_000i64, 0..15_000i64, 0..INTERVAL).prop_map(|(start, end, from, time, late)| {
            let hangs = from..from + time;
            Life { start, end, hangs, late }
        })
    }

    impl Life {
        fn is_up(&self, at: i64) -> bool {
            self.start <= at && self.end.is_none_or(|end| at < end) && !self.hangs.contains(&at)
        }

        fn announcements(&self, until: i64) -> impl DoubleEndedIterator<Item = i64> + '_ {
            let steps = (until - self.start).max(-1) / (INTERVAL + self.late);
            let at = |step| self.start + step * (INTERVAL + self.late);
            (0..=steps).map(at).filter(move |at| *at <= until && self.is_up(*at))
        }
    }

    proptest! {
        /// Soon after compactors have come, gone, hung or woken up, all that are there see each other and nobody else, so
        /// every date is somebody's who is there, and nobody's for ever.
        #[test]
        fn those_who_are_there_agree_soon_after_others_come_go_or_hang(lives in proptest::collection::vec(life(), 1..6)) {
            let seen_at = |now: i64| -> Vec<Seen> {
                let last = lives.iter().enumerate().filter_map(|(n, life)| Some((n, life.announcements(now).next_back()?)));
                last.map(|(n, at_ms)| Seen { member: Uuid::from_u128(n as u128), at_ms }).collect()
            };
            let changes: Vec<i64> =
                lives.iter().flat_map(|life| [life.start, life.end.unwrap_or(0), life.hangs.start, life.hangs.end]).collect();
            let patience = Duration::from_millis(INTERVAL as u64) * MISSED;
            let settled = patience.as_millis() as i64 + 4 * INTERVAL;
            for now in (0..70_000).step_by(500) {
                if changes.iter().any(|change| (now - settled..=now).contains(change)) {
                    continue;
                }
                let there: Vec<Uuid> = ids(&(0..).zip(&lives).filter(|(_, life)| life.is_up(now)).map(|(n, _)| n).collect::<Vec<_>>());
                let mut shares = BTreeMap::new();
                for (me, life) in there.iter().zip(lives.iter().filter(|life| life.is_up(now))) {
                    // Each knows what it saw when it announced itself last.
                    let looked_at = life.announcements(now).next_back().unwrap();
                    shares.insert(*me, Share::new(*me, judge(&seen_at(looked_at), patience).present));
                }
                for share in shares.values() {
                    prop_assert_eq!(share.members().collect::<Vec<_>>(), there.clone(), "at {}", now);
                }
            }
        }
    }

    #[tokio::test]
    async fn who_cannot_announce_itself_while_tables_are_reached_leaves_nothing_to_others_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let (lake, faults) = faulty_lake(directory.path()).unwrap();
        let member = |condition| Members::new(lake.clone(), SHORTEST_INTERVAL, condition);
        let (mut other, _others_share) = member(Condition::default());
        for is_outage in [false, true] {
            let condition = Condition::default();
            let (mut one, share) = member(condition.clone());
            other.look().await;
            one.look().await;
            assert!(share.borrow().present() > 1);
            let before = share.borrow().clone();
            faults.inject(Op::Put, DIRECTORY, Fault::Deny, usize::MAX);
            for failures in 1..=MISSED + 2 {
                if is_outage {
                    condition.failed("events", "no answer".to_owned());
                }
                one.look().await;
                let is_alone = failures > MISSED && !is_outage;
                assert_eq!(*share.borrow(), if is_alone { Share::new(one.me, []) } else { before.clone() });
            }
            faults.heal();
        }
    }

    #[tokio::test]
    async fn after_an_outage_the_others_are_given_the_time_to_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let (lake, faults) = faulty_lake(directory.path()).unwrap();
        let member = || Members::new(lake.clone(), SHORTEST_INTERVAL, Condition::default());
        let ((mut one, share), (mut other, _others_share)) = (member(), member());
        other.look().await;
        one.look().await;
        assert_eq!(share.borrow().present(), 2);
        let path = directory.path().join(DIRECTORY).join(other.me.to_string());
        let announced = std::fs::File::options().append(true).open(path).unwrap();
        announced.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
        faults.inject(Op::Put, DIRECTORY, Fault::Fail, 2);
        for present in [2, 2, 2, 1] {
            one.look().await;
            assert_eq!(share.borrow().present(), present);
        }
    }
}
