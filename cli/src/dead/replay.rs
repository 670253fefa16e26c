//! `lakehose dead replay`: appends dead letters to their topic again, each exactly once whatever crashes.
//!
//! Batch by batch: begin it in the table of replays, append it to the topic, settle it in the table. Whoever finds a
//! batch begun and not settled looks through the topic for its records, appends those that are missing, and settles it.
//! That nobody else is still appending them is what the log promises of a writer that shuts out the ones before.

use super::Version;
use super::args::{Fate, Replay};
use super::batch::{Batch, Entry, Landed};
use super::corrections::Corrections;
use super::filter::Filter;
use super::letter::{Letter, parse_headers};
use super::marks::{Marks, Open};
use super::read::Letters;
use super::replayed::Replayed;
use super::topic::Topic;
use crate::config::Config;
use anyhow::{Context, bail};
use eventlog::{AppendError, Bounds, Position, WholeError};
use lake::Lake;
use std::fmt;
use tracing::warn;
use uuid::Uuid;

/// How often a batch may be begun or finished without getting further.
const ATTEMPTS: u32 = 5;

pub async fn run(args: &Replay, config: &Config, lake: &Lake, dead: &Version) -> anyhow::Result<()> {
    super::require_known(config, &args.dataset)?;
    let mut corrections = match &args.input {
        Some(path) => Some(Corrections::open(path)?),
        None => None,
    };
    if let Some(corrections) = &corrections {
        corrections.require_letters(dead).await?;
    }
    let mut chosen = Choice { corrections: corrections.as_mut(), left: args.chosen.limit(), tally: Tally::default() };
    let filter = args.chosen.filter();
    if args.dry_run {
        return try_out(&mut chosen, filter, &args.dataset, lake, dead).await;
    }
    let mut topic = Topic::open(config, &args.dataset).await?;
    let mut replay = Replaying { topic: &mut topic, lake, dead, dataset: &args.dataset, fate: args.open_batch_is };
    let replayed = replay.run(&mut chosen, &filter).await;
    println!("{}", chosen.tally);
    let closed = topic.close().await;
    replayed.and(closed)
}

/// Says what would be replayed.
async fn try_out(
    chosen: &mut Choice<'_>,
    filter: Filter,
    dataset: &str,
    lake: &Lake,
    dead: &Version,
) -> anyhow::Result<()> {
    let replays = Version::of_replays(lake, dataset).await?;
    let replayed = Replayed::load(replays.as_ref()).await?;
    let mut letters = Letters::new(dead, filter, &replayed, u64::MAX);
    loop {
        let batch = chosen.next_batch(&mut letters).await?;
        if batch.entries.is_empty() {
            break;
        }
        chosen.tally.count(&batch.entries);
    }
    println!("dry run, nothing was replayed; it would be: {}", chosen.tally);
    Ok(())
}

/// Where letters go to, and where it is noted.
struct Replaying<'a> {
    topic: &'a mut Topic,
    lake: &'a Lake,
    dead: &'a Version,
    dataset: &'a str,
    fate: Option<Fate>,
}

impl Replaying<'_> {
    async fn run(&mut self, chosen: &mut Choice<'_>, filter: &Filter) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let bounds = self.topic.bounds()?;
            let mut marks = Marks::load(self.lake, self.dataset, bounds.len()).await?;
            let found_open = marks.open().await?;
            if self.fate.is_some() && found_open.is_none() {
                bail!("no batch is under way, so --open-batch-is has nothing to say");
            }
            if let Some(open) = found_open
                && !self.finish(&mut marks, &open, &bounds, &mut chosen.tally).await?
            {
                continue;
            }
            if self.replay(&mut marks, chosen, filter.clone()).await? {
                return Ok(());
            }
        }
        bail!("others replay dead letters of {} as well; run it again when they have ended", self.dataset)
    }

    /// Replays batch by batch. False if it cannot go on without looking at the table of replays again.
    async fn replay(&mut self, marks: &mut Marks, chosen: &mut Choice<'_>, filter: Filter) -> anyhow::Result<bool> {
        let replayed = Replayed::load(Some(&marks.version)).await?;
        chosen.tally.look_again();
        let mut letters = Letters::new(self.dead, filter, &replayed, u64::MAX);
        loop {
            let batch = chosen.next_batch(&mut letters).await?;
            if batch.entries.is_empty() {
                return Ok(true);
            }
            let bounds = self.topic.bounds()?;
            require_same_topic(&batch, &bounds, self.dataset)?;
            let count = batch.entries.len() as u64;
            let Some(open) = marks.begin(batch, &bounds).await? else {
                chosen.left += count;
                return Ok(false);
            };
            if !self.append(marks, &open, Landed::new(), &mut chosen.tally).await? {
                return Ok(false);
            }
        }
    }

    /// Finishes a batch that another process began, or this one. False if it has to be looked at again.
    async fn finish(
        &mut self,
        marks: &mut Marks,
        open: &Open,
        bounds: &[Bounds],
        tally: &mut Tally,
    ) -> anyhow::Result<bool> {
        let landed = match self.fate.take() {
            Some(Fate::Unsent) => return marks.settle(open, &Landed::new()).await.map(|_| true),
            Some(Fate::Sent) => {
                let not_known = Position { partition: 0, offset: -1 };
                let landed = open.batch.entries.iter().map(|entry| (entry.place, not_known)).collect();
                return marks.settle(open, &landed).await.map(|_| true);
            }
            None => {
                let from = marks.ends(bounds.len());
                require_all_there(&open.batch, &from, bounds, self.dataset)?;
                self.topic.landed(&open.batch, &from)?
            }
        };
        warn!(
            batch = open.batch.id,
            records = open.batch.entries.len(),
            landed = landed.len(),
            "finishing a replay that was begun before"
        );
        self.append(marks, open, landed, tally).await
    }

    /// Appends what has not landed, and settles the batch. False if it is not known what the log or the table has.
    async fn append(
        &mut self,
        marks: &mut Marks,
        open: &Open,
        mut landed: Landed,
        tally: &mut Tally,
    ) -> anyhow::Result<bool> {
        let (places, records) = open.batch.records(&landed)?;
        let largest = records.iter().map(|record| record.size()).zip(&places).max();
        let largest =
            largest.map_or(String::new(), |(bytes, place)| format!("; the largest is {place} with {bytes} bytes"));
        match self.topic.append(records) {
            Ok(positions) => landed.extend(places.into_iter().zip(positions)),
            Err(err @ WholeError::Superseded { .. }) => {
                return Err(err).context("another replay was started and goes on with what this one has begun");
            }
            Err(WholeError::Refused(err @ (AppendError::TooLarge { .. } | AppendError::Refused(_)))) => {
                marks.settle(open, &landed).await?;
                return Err(err)
                    .with_context(|| format!("the log refuses a batch of {} records{largest}", places.len()));
            }
            Err(WholeError::Refused(err)) => {
                return Err(err).context("the log does not take records now; run it again, it goes on from here");
            }
            Err(WholeError::Unknown { reason }) => {
                warn!(batch = open.batch.id, reason, "asking the log what it has");
                self.topic.reopen()?;
                return Ok(false);
            }
        }
        let settled = marks.settle(open, &landed).await?;
        if settled {
            tally.count(&open.batch.entries);
        }
        // If somebody else did it, they may have gone on: what is replayed by now is not what was read at the start.
        Ok(settled)
    }
}

/// Records must not go into a topic that they do not come from.
fn require_same_topic(batch: &Batch, bounds: &[Bounds], dataset: &str) -> anyhow::Result<()> {
    for place in batch.entries.iter().map(|entry| entry.place) {
        let next = usize::try_from(place.partition).ok().and_then(|p| bounds.get(p)).map_or(0, |bounds| bounds.next);
        if place.offset >= next {
            bail!(
                "the topic {dataset} ends at {}/{next}, before the dead letter {place}: it is another log, or the topic \
                 was made anew; check --brokers and --data",
                place.partition
            );
        }
    }
    Ok(())
}

/// The topic must still hold all that was appended since the batch was begun.
fn require_all_there(batch: &Batch, from: &[Position], bounds: &[Bounds], dataset: &str) -> anyhow::Result<()> {
    for (Position { partition, offset }, bounds) in from.iter().zip(bounds) {
        if !(bounds.first..=bounds.next).contains(offset) {
            let places = batch.entries.iter().map(|entry| entry.place);
            let (first, last) = (places.clone().min().unwrap_or_default(), places.max().unwrap_or_default());
            bail!(
                "a replay of {} dead letters ({first} to {last}) was begun when partition {partition} of {dataset} ended \
                 at {offset}, and the log now holds only {} to {}, so it cannot tell whether they are in it: look in the \
                 table for one of them, then give --open-batch-is sent or --open-batch-is unsent",
                batch.entries.len(),
                bounds.first,
                bounds.next
            );
        }
    }
    Ok(())
}

/// The letters that are meant, as they are to be sent.
struct Choice<'a> {
    corrections: Option<&'a mut Corrections>,
    /// How many more may be sent.
    left: u64,
    tally: Tally,
}

impl Choice<'_> {
    /// The next batch; empty at the end.
    async fn next_batch(&mut self, letters: &mut Letters<'_>) -> anyhow::Result<Batch> {
        let at = chrono::Utc::now().timestamp_micros();
        let mut batch = Batch { id: Uuid::now_v7().to_string(), at, entries: Vec::new() };
        while self.left > 0 && !batch.is_full() {
            let Some((letter, is_replayed)) = letters.next().await? else { break };
            if self.corrections.as_ref().is_some_and(|corrections| !corrections.names(letter.place)) {
                continue;
            }
            if is_replayed {
                self.tally.already += 1;
                continue;
            }
            let entry = self.entry(letter)?;
            if entry.payload.is_none() {
                self.tally.tombstones += 1;
                continue;
            }
            self.left -= 1;
            batch.entries.push(entry);
        }
        Ok(batch)
    }

    fn entry(&mut self, letter: Letter) -> anyhow::Result<Entry> {
        let Letter { place, key, payload, headers, .. } = letter;
        let entry = Entry { place, corrected: false, key, payload, headers };
        let corrected = match &mut self.corrections {
            Some(corrections) => corrections.of(place)?,
            None => None,
        };
        let Some(corrected) = corrected else { return Ok(entry) };
        let parsed = |headers: &str| parse_headers(&serde_json::from_str(headers)?);
        let same_headers = parsed(&entry.headers)? == parsed(&corrected.headers)?;
        let is_same = same_headers && entry.key == corrected.key && entry.payload == corrected.payload;
        let (key, payload, headers) = (corrected.key, corrected.payload, corrected.headers);
        Ok(Entry { place, corrected: !is_same, key, payload, headers })
    }
}

/// What became of the letters.
#[derive(Debug, Default)]
struct Tally {
    replayed: u64,
    corrected: u64,
    already: u64,
    tombstones: u64,
    /// Of those seen as replayed already, so many were replayed here.
    own: u64,
}

impl Tally {
    fn count(&mut self, entries: &[Entry]) {
        self.replayed += entries.len() as u64;
        self.corrected += entries.iter().filter(|entry| entry.corrected).count() as u64;
    }

    /// The letters are gone through from the start again.
    fn look_again(&mut self) {
        (self.already, self.tombstones, self.own) = (0, 0, self.replayed);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dead letters replayed", self.replayed)?;
        let already = self.already.saturating_sub(self.own);
        for (count, what) in [
            (self.corrected, "of them corrected"),
            (already, "replayed before"),
            (self.tombstones, "left out: they have no payload, and would be dead again"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead::args::Place;

    fn batch() -> Batch {
        let entry = |offset| Entry {
            place: Place { partition: 1, offset },
            corrected: false,
            key: None,
            payload: None,
            headers: "[]".into(),
        };
        Batch { id: "b".into(), at: 0, entries: vec![entry(5), entry(9)] }
    }

    fn bounds(first: i64, next: i64) -> Vec<Bounds> {
        vec![Bounds { first: 0, next: 100 }, Bounds { first, next }]
    }

    #[test]
    fn a_topic_that_ends_before_a_letter_is_another_topic() {
        assert!(require_same_topic(&batch(), &bounds(0, 10), "events").is_ok());
        let refusal = require_same_topic(&batch(), &bounds(0, 9), "events").unwrap_err().to_string();
        assert!(refusal.contains("1/9") && refusal.contains("--brokers"), "{refusal}");
        assert!(require_same_topic(&batch(), &bounds(0, 10)[..1], "events").is_err());
    }

    #[test]
    fn a_log_that_is_too_short_to_tell_is_refused_with_a_way_out() {
        let from = [Position { partition: 0, offset: 50 }, Position { partition: 1, offset: 20 }];
        for whole in [bounds(0, 20), bounds(20, 90)] {
            assert!(require_all_there(&batch(), &from, &whole, "events").is_ok(), "{whole:?}");
        }
        for short in [bounds(21, 90), bounds(0, 19)] {
            let refusal = require_all_there(&batch(), &from, &short, "events").unwrap_err().to_string();
            assert!(refusal.contains("1/5 to 1/9") && refusal.contains("--open-batch-is unsent"), "{refusal}");
        }
    }

    #[test]
    fn a_second_look_does_not_count_twice() {
        let mut tally = Tally { already: 4, tombstones: 1, ..Tally::default() };
        tally.count(&batch().entries);
        tally.look_again();
        (tally.already, tally.tombstones) = (6, 1);
        assert_eq!(
            tally.to_string(),
            "2 dead letters replayed, 4 replayed before, 1 left out: they have no payload, and would be dead again"
        );
    }
}
