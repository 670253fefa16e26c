//! `lakehose dead export`: dead letters to a file, to the byte.
//!
//! In CSV an absent key or payload has no number of bytes, and an empty one has 0.

use super::Version;
use super::args::{Export, Format};
use super::letter::Letter;
use super::ndjson::{self, text_or_base64};
use super::read::Letters;
use super::replayed::Replayed;
use super::times;
use crate::print;
use anyhow::Context;
use bytes::Bytes;
use lake::Lake;
use std::fs::File;
use std::io::{self, BufWriter, Write};

pub async fn run(args: &Export, lake: &Lake, dead: &Version) -> anyhow::Result<()> {
    let replayed = Replayed::load(Version::of_replays(lake, &args.dataset).await?.as_ref()).await?;
    let letters = Letters::new(dead, args.chosen.filter(), &replayed, args.chosen.limit());
    let Some(path) = &args.output else {
        let (_, written) = export(letters, args.format, BufWriter::new(io::stdout())).await?;
        return print::to_stdout(written);
    };
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let (count, written) = export(letters, args.format, BufWriter::new(file)).await?;
    written.with_context(|| format!("cannot write {}", path.display()))?;
    println!("{count} dead letters written to {}", path.display());
    Ok(())
}

/// Writes the letters; how many, and what became of writing them.
async fn export(mut letters: Letters<'_>, format: Format, out: impl Write) -> anyhow::Result<(u64, io::Result<()>)> {
    let mut sheet = Sheet::begin(format, out)?;
    let mut count = 0;
    while let Some((letter, is_replayed)) = letters.next().await? {
        if let Err(err) = sheet.write(&letter, is_replayed)? {
            return Ok((count, Err(err)));
        }
        count += 1;
    }
    Ok((count, sheet.finish()))
}

const COLUMNS: [&str; 15] = [
    "kafka_partition",
    "kafka_offset",
    "received_at",
    "reason",
    "detail",
    "topic",
    "replayed",
    "key_bytes",
    "key",
    "key_base64",
    "payload_bytes",
    "payload",
    "payload_base64",
    "headers",
    "date",
];

enum Sheet<W: Write> {
    Ndjson(W),
    Csv(Box<csv::Writer<W>>),
}

impl<W: Write> Sheet<W> {
    fn begin(format: Format, out: W) -> anyhow::Result<Sheet<W>> {
        Ok(match format {
            Format::Ndjson => Sheet::Ndjson(out),
            Format::Csv => {
                let mut sheet = csv::Writer::from_writer(out);
                // It goes to the buffer, which is larger.
                sheet.write_record(COLUMNS)?;
                Sheet::Csv(Box::new(sheet))
            }
        })
    }

    /// The outer error is about the letter, the inner one about the file.
    fn write(&mut self, letter: &Letter, is_replayed: bool) -> anyhow::Result<io::Result<()>> {
        match self {
            Sheet::Ndjson(out) => {
                let line = ndjson::write(letter, is_replayed)?;
                Ok(writeln!(out, "{line}"))
            }
            Sheet::Csv(sheet) => Ok(sheet.write_record(fields(letter, is_replayed)).map_err(io::Error::from)),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Sheet::Ndjson(mut out) => out.flush(),
            Sheet::Csv(mut sheet) => sheet.flush(),
        }
    }
}

fn fields(letter: &Letter, is_replayed: bool) -> [String; COLUMNS.len()] {
    let of = |bytes: Option<&Bytes>| {
        let (text, base64) = text_or_base64(bytes);
        let len = bytes.map(|bytes| bytes.len().to_string());
        [len, text, base64].map(Option::unwrap_or_default)
    };
    let [key_bytes, key, key_base64] = of(letter.key.as_ref());
    let [payload_bytes, payload, payload_base64] = of(letter.payload.as_ref());
    [
        letter.place.partition.to_string(),
        letter.place.offset.to_string(),
        times::show(letter.received_at),
        letter.reason.clone(),
        letter.detail.clone(),
        letter.topic.clone(),
        is_replayed.to_string(),
        key_bytes,
        key,
        key_base64,
        payload_bytes,
        payload,
        payload_base64,
        letter.headers.clone(),
        lake::layout::date_of(letter.received_at).to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead::args::Place;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;

    fn csv_of(letters: &[Letter]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sheet = Sheet::begin(Format::Csv, &mut out).unwrap();
        letters.iter().for_each(|letter| sheet.write(letter, false).unwrap().unwrap());
        sheet.finish().unwrap();
        out
    }

    /// The bytes that three fields tell of.
    fn bytes(len: &str, text: &str, base64: &str) -> Option<Bytes> {
        let bytes = match base64 {
            "" => text.as_bytes().to_vec(),
            base64 => BASE64.decode(base64).unwrap(),
        };
        (!len.is_empty()).then(|| {
            assert_eq!(bytes.len(), len.parse::<usize>().unwrap());
            bytes.into()
        })
    }

    prop_compose! {
        fn any_letter()(
            offset in 0..1_000i64,
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
            text in proptest::option::of("[a\"\r\n,;\u{0}ü]{0,8}"),
            detail in ".*",
        ) -> Letter {
            let place = Place { partition: 1, offset };
            let payload = text.map(Bytes::from).or(payload.map(Bytes::from));
            Letter { place, key: key.map(Bytes::from), payload, detail, headers: "[[\"a\",\"1\"]]".into(), ..Letter::default() }
        }
    }

    proptest! {
        #[test]
        fn letters_come_back_from_csv_to_the_byte(letters in proptest::collection::vec(any_letter(), 0..5)) {
            let csv = csv_of(&letters);
            let mut reader = csv::Reader::from_reader(&csv[..]);
            let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
            let found: Vec<Letter> = rows.iter().map(|row| Letter {
                place: Place { partition: row[0].parse().unwrap(), offset: row[1].parse().unwrap() },
                detail: row[4].to_owned(),
                key: bytes(&row[7], &row[8], &row[9]),
                payload: bytes(&row[10], &row[11], &row[12]),
                headers: row[13].to_owned(),
                ..Letter::default()
            }).collect();
            prop_assert_eq!(found, letters);
        }
    }
}
