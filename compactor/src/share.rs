//! Which compactor works on what.
//!
//! Every pair of a compactor and a piece of work has a number that all compute alike, and the work is that of the
//! compactor whose number is highest (rendezvous hashing). So nobody has to agree with anybody: those who see the same
//! compactors split alike, and one that comes or goes moves only the work that it gets or had.
//!
//! It is a hint that saves work. Two who see different compactors may both merge the same files, and the table takes one
//! of the results (invariant I5).

use chrono::NaiveDate;
use siphasher::sip::SipHasher13;
use std::collections::BTreeSet;
use uuid::Uuid;

/// What one compactor does and the others leave to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work<'a> {
    /// Merging the files of a window.
    Merge { table: &'a str, date: NaiveDate },
    /// Deleting what a table does not need any more.
    Sweep { table: &'a str },
}

impl Work<'_> {
    /// No table has a slash in its name, so no two pieces of work have the same key.
    fn key(self) -> String {
        match self {
            Work::Merge { table, date } => format!("{table}/{date}"),
            Work::Sweep { table } => format!("{table}/sweep"),
        }
    }
}

/// The compactors as one of them sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    me: Uuid,
    present: BTreeSet<Uuid>,
}

impl Share {
    /// `me` among `others`.
    pub fn new(me: Uuid, others: impl IntoIterator<Item = Uuid>) -> Share {
        Share { me, present: others.into_iter().chain([me]).collect() }
    }

    /// Who there is, this one included.
    pub fn members(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.present.iter().copied()
    }

    /// How many compactors there are, this one included.
    pub fn present(&self) -> usize {
        self.present.len()
    }

    /// Whether it is this one's.
    pub fn has(&self, work: Work<'_>) -> bool {
        self.owner(work) == self.me
    }

    /// Whose it is.
    pub fn owner(&self, work: Work<'_>) -> Uuid {
        let key = work.key();
        let highest = self.present.iter().copied().max_by_key(|member| (number(*member, &key), *member));
        highest.unwrap_or(self.me)
    }
}

/// The same in every process, of whatever version and on whatever machine: part of the protocol between compactors.
fn number(member: Uuid, key: &str) -> u64 {
    SipHasher13::new().hash(&[member.as_bytes().as_slice(), key.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOWS: usize = 300;

    fn windows() -> Vec<Work<'static>> {
        let date = |day: usize| NaiveDate::default() + chrono::Days::new(day as u64 / 2);
        let table = |n: usize| if n.is_multiple_of(2) { "events" } else { "events__dead" };
        (0..WINDOWS).map(|n| Work::Merge { table: table(n), date: date(n) }).collect()
    }

    fn members() -> impl Strategy<Value = BTreeSet<Uuid>> {
        proptest::collection::btree_set(any::<u128>().prop_map(Uuid::from_u128), 1..12)
    }

    fn seen_by(me: Uuid, members: &BTreeSet<Uuid>) -> Share {
        Share::new(me, members.iter().copied())
    }

    proptest! {
        #[test]
        fn every_window_has_exactly_one_owner(members in members()) {
            for window in windows() {
                let owners = members.iter().filter(|me| seen_by(**me, &members).has(window)).count();
                prop_assert_eq!(owners, 1);
            }
        }

        #[test]
        fn one_that_goes_leaves_the_windows_of_the_others_where_they_are(members in members(), gone: prop::sample::Index) {
            let gone = **gone.get(&Vec::from_iter(&members));
            let rest: BTreeSet<Uuid> = members.iter().copied().filter(|member| *member != gone).collect();
            prop_assume!(!rest.is_empty());
            let (before, after) = (seen_by(gone, &members), seen_by(*rest.first().unwrap(), &rest));
            for window in windows() {
                let owner = before.owner(window);
                prop_assert!(owner == gone || after.owner(window) == owner);
            }
        }

        #[test]
        fn one_that_comes_gets_about_as_many_windows_as_each_of_the_others(members in members(), comes: u128) {
            let comes = Uuid::from_u128(comes);
            let more: BTreeSet<Uuid> = members.iter().copied().chain([comes]).collect();
            prop_assume!(more.len() > members.len());
            let gets = windows().into_iter().filter(|window| seen_by(comes, &more).has(*window)).count();
            let fair = WINDOWS as f64 / more.len() as f64;
            prop_assert!((gets as f64 - fair).abs() < 6.0 * fair.sqrt() + 1.0, "{gets} of {WINDOWS}, not about {fair}");
        }
    }

    #[test]
    fn the_split_is_the_same_in_every_version() {
        let members = [1, 2, 3].map(Uuid::from_u128);
        let share = Share::new(members[0], members);
        let date = |day| NaiveDate::from_ymd_opt(2026, 11, day).unwrap();
        let owners = (20..26).map(|day| share.owner(Work::Merge { table: "events", date: date(day) }).as_u128());
        assert_eq!(owners.collect::<Vec<_>>(), [1, 3, 3, 2, 2, 3]);
        assert_eq!(share.owner(Work::Sweep { table: "events" }).as_u128(), 3);
    }
}
