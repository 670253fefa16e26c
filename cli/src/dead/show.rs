//! `lakehose dead show`: all there is of one dead letter.

use super::Version;
use super::args::Show;
use super::filter::Filter;
use super::letter::{Letter, parse_headers};
use super::read::Letters;
use super::replayed::{Replay, Replayed};
use super::times;
use crate::print::{self, dump, in_one_line, readable};
use anyhow::{Context, bail};
use bytes::Bytes;
use lake::Lake;
use std::io::{self, Write};

pub async fn run(args: &Show, lake: &Lake, dead: &Version) -> anyhow::Result<()> {
    let found = Letters::new(dead, Filter::at(args.place), &Replayed::default(), 1).next().await?;
    let Some((letter, _)) = found else {
        bail!("there is no dead letter {} of {}; `lakehose dead ls` lists them", args.place, args.dataset);
    };
    let replay = match Version::of_replays(lake, &args.dataset).await? {
        Some(replays) => Replay::find(&replays, args.place).await?,
        None => None,
    };
    let shown = shown(&letter, replay.as_ref())?;
    print::to_stdout(io::stdout().write_all(shown.as_bytes()))
}

fn shown(letter: &Letter, replay: Option<&Replay>) -> anyhow::Result<String> {
    let mut shown = String::new();
    let mut fact = |name: &str, value: &str| shown.push_str(&format!("{name:<12} {value}\n"));
    fact("place", &letter.place.to_string());
    fact("topic", &in_one_line(&letter.topic));
    fact("received_at", &times::show(letter.received_at));
    fact("reason", &letter.reason);
    fact("detail", &in_one_line(&letter.detail));
    fact("replayed", &how(replay));
    let headers = serde_json::from_str(&letter.headers).context("the headers of the letter are not JSON")?;
    for (name, value) in parse_headers(&headers)? {
        fact("header", &format!("{} = {}", in_one_line(&name), short(value.as_ref())));
    }
    fact("key", &short(letter.key.as_ref()));
    match &letter.payload {
        None => fact("payload", "none"),
        Some(payload) => {
            let kind = if readable(payload).is_some() { "text" } else { "not text" };
            fact("payload", &format!("{} bytes, {kind}:", payload.len()));
            shown.push_str(&dump(payload));
        }
    }
    Ok(shown)
}

fn how(replay: Option<&Replay>) -> String {
    let Some(Replay { batch, at, corrected, to }) = replay else { return "no".to_owned() };
    let (at, corrected) = (times::show(*at), if *corrected { ", corrected" } else { "" });
    match to {
        None => format!("under way since {at}, batch {batch}{corrected}; `lakehose dead replay` finishes it"),
        Some(place) if place.offset < 0 => format!("at {at}, batch {batch}{corrected}; to where is not known"),
        Some(place) => format!("to {place} at {at}, batch {batch}{corrected}"),
    }
}

/// A value on the rest of a line.
fn short(value: Option<&Bytes>) -> String {
    match value {
        None => "none".to_owned(),
        Some(bytes) => match readable(bytes) {
            Some(text) => in_one_line(text),
            None => bytes.escape_ascii().to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead::args::Place;

    fn letter(payload: &'static [u8]) -> Letter {
        Letter {
            reason: "invalid_json".into(),
            detail: "expected\nvalue".into(),
            topic: "events".into(),
            place: Place { partition: 3, offset: 42 },
            received_at: 5,
            key: Some(Bytes::from_static(b"\x00\xff")),
            payload: Some(Bytes::from_static(payload)),
            headers: r#"[["id","x-1"],["n",null]]"#.into(),
        }
    }

    #[test]
    fn everything_of_a_letter_is_shown() {
        let to = Some(Place { partition: 1, offset: 77 });
        let replay = Replay { batch: "b".into(), at: 0, corrected: true, to };
        let shown = shown(&letter(b"temp=5"), Some(&replay)).unwrap();
        for line in [
            "place        3/42",
            "detail       expected\\nvalue",
            "replayed     to 1/77 at 1970-01-01T00:00:00.000000Z, batch b, corrected",
            "header       id = x-1",
            "header       n = none",
            "key          \\x00\\xff",
            "payload      6 bytes, text:",
            "temp=5",
        ] {
            assert!(shown.lines().any(|found| found == line), "`{line}` is not in:\n{shown}");
        }
    }

    #[test]
    fn a_payload_that_is_no_text_is_shown_as_numbers() {
        let shown = shown(&letter(b"\xfe\xff"), None).unwrap();
        assert!(
            shown.contains("replayed     no\n") && shown.contains("2 bytes, not text:\n00000000  fe ff "),
            "{shown}"
        );
    }
}
