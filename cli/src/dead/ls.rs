//! `lakehose dead ls`: dead letters, one a line, or how many there are.

use super::Version;
use super::args::Ls;
use super::letter::Letter;
use super::read::Letters;
use super::replayed::Replayed;
use super::times;
use crate::print;
use chrono::NaiveDate;
use lake::{Lake, layout};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

pub async fn run(args: &Ls, lake: &Lake, dead: &Version) -> anyhow::Result<()> {
    let replayed = Replayed::load(Version::of_replays(lake, &args.dataset).await?.as_ref()).await?;
    let mut letters = Letters::new(dead, args.chosen.filter(), &replayed, args.chosen.limit());
    let mut out = BufWriter::new(io::stdout());
    if args.summary {
        return summarize(&mut letters, args.json, &mut out).await;
    }
    let mut written = Ok(());
    let mut count = 0u64;
    while let Some((letter, is_replayed)) = letters.next().await? {
        if count == 0 && !args.json {
            written = written.and_then(|()| {
                let (place, time, reason) = ("place", "received_at", "reason");
                writeln!(out, "{place:<14}  {time:<27}  {:>9}  {:<8}  {reason:<17}  detail", "bytes", "replayed")
            });
        }
        count += 1;
        written = written.and_then(|()| line(&mut out, &letter, is_replayed, args.json));
        if written.is_err() {
            break;
        }
    }
    if count == 0 && !args.json {
        written = writeln!(out, "no dead letters");
    }
    print::to_stdout(written.and_then(|()| out.flush()))
}

fn line(out: &mut impl Write, letter: &Letter, is_replayed: bool, as_json: bool) -> io::Result<()> {
    let Letter { place, reason, detail, .. } = letter;
    let (time, bytes) = (times::show(letter.received_at), letter.payload.as_ref().map(|payload| payload.len()));
    if as_json {
        let line = json!({
            "kafka_partition": place.partition, "kafka_offset": place.offset, "received_at": time, "reason": reason,
            "detail": detail, "bytes": bytes, "replayed": is_replayed,
        });
        return writeln!(out, "{line}");
    }
    let bytes = bytes.map_or("none".to_owned(), |bytes| bytes.to_string());
    let is_replayed = if is_replayed { "yes" } else { "no" };
    let (place, detail) = (place.to_string(), print::in_one_line(detail));
    writeln!(out, "{place:<14}  {time:<27}  {bytes:>9}  {is_replayed:<8}  {reason:<17}  {detail}")
}

/// How many there are of each day and reason.
async fn summarize(letters: &mut Letters<'_>, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut counts: BTreeMap<(NaiveDate, String), (u64, u64)> = BTreeMap::new();
    while let Some((letter, is_replayed)) = letters.next().await? {
        let (all, replayed) = counts.entry((layout::date_of(letter.received_at), letter.reason)).or_default();
        *all += 1;
        *replayed += u64::from(is_replayed);
    }
    let print = |out: &mut dyn Write| {
        if counts.is_empty() && !as_json {
            writeln!(out, "no dead letters")?;
        } else if !as_json {
            writeln!(out, "{:<10}  {:<17}  {:>12}  {:>12}", "date", "reason", "letters", "replayed")?;
        }
        for ((date, reason), (all, replayed)) in &counts {
            match as_json {
                true => {
                    let line = json!({"date": date, "reason": reason, "letters": all, "replayed": replayed});
                    writeln!(out, "{line}")?;
                }
                false => writeln!(out, "{:<10}  {reason:<17}  {all:>12}  {replayed:>12}", date.to_string())?,
            }
        }
        out.flush()
    };
    print::to_stdout(print(out))
}
