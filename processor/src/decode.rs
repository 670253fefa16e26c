//! A record becomes a row or a dead letter. Pure: the same record gives the same outcome whenever it is read, which is
//! what lets any processor repeat the work of any other.

use eventlog::Record;
use lake::event::{Event, Invalid, MAX_NAME_BYTES, Reason};

/// Header with the id that the gateway gave to an event without one.
pub const ID_HEADER: &str = "id";
/// Header with the time at which the gateway received the event: decimal microseconds since the epoch.
pub const RECEIVED_AT_HEADER: &str = "received_at";

/// The fate of a record.
#[derive(Debug)]
pub enum Outcome<'a> {
    Row(Event<'a>),
    Dead(Invalid),
}

/// Reads the event in a record, from whichever producer it came.
pub fn decode<'a>(record: &Record<'a>) -> Outcome<'a> {
    let Some(value) = record.value else {
        return Outcome::Dead(Invalid { reason: Reason::Empty, detail: "the record has no value".into() });
    };
    match Event::parse(value) {
        Ok(event) => Outcome::Row(event),
        Err(invalid) => Outcome::Dead(invalid),
    }
}

/// When the event was received, microseconds since the epoch: what the gateway wrote, else the log's own time-stamp.
pub fn received_at(record: &Record<'_>) -> i64 {
    let header = record.headers.get(RECEIVED_AT_HEADER).and_then(|value| std::str::from_utf8(value).ok());
    let given = header.and_then(|value| value.parse::<i64>().ok()).filter(|micros| (0..MAX_MICROS).contains(micros));
    given.unwrap_or_else(|| record.timestamp_ms.clamp(0, MAX_MICROS / 1_000) * 1_000)
}

/// The year 10000: no reader shows it.
const MAX_MICROS: i64 = 253_402_300_800_000_000;

/// The id of an event that carries none itself: what the gateway gave it, else one made of its place in the log.
pub fn id_of<'a>(record: &Record<'a>, made: &'a mut String) -> &'a str {
    let header = record.headers.get(ID_HEADER).and_then(|value| std::str::from_utf8(value).ok());
    match header.filter(|id| !id.is_empty() && id.len() <= MAX_NAME_BYTES) {
        Some(id) => id,
        None => {
            use std::fmt::Write;
            made.clear();
            // Writing to memory cannot fail.
            let _ = write!(made, "kafka-{}-{}", record.partition, record.offset);
            made
        }
    }
}

/// Whether `id` was made of the row's place in the log, so that no other event can have it.
pub fn is_made_id(id: &str, partition: i32, offset: i64) -> bool {
    let place = id.strip_prefix("kafka-").and_then(|place| place.split_once('-'));
    place.is_some_and(|(p, o)| p.parse() == Ok(partition) && o.parse() == Ok(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventlog::Headers;

    type Pairs<'a> = &'a [(&'a str, Option<&'a [u8]>)];

    fn record<'a>(value: Option<&'a [u8]>, headers: Pairs<'a>) -> Record<'a> {
        let headers = Headers::from_pairs(headers);
        Record { partition: 2, offset: 7, timestamp_ms: 1_000, key: None, value, headers }
    }

    fn reason(value: Option<&[u8]>) -> Reason {
        match decode(&record(value, &[])) {
            Outcome::Dead(invalid) => invalid.reason,
            Outcome::Row(event) => panic!("{event:?}"),
        }
    }

    #[test]
    fn records_of_any_producer_are_rows_if_they_are_events() {
        let record = record(Some(br#"{"device_id":"d"}"#), &[]);
        assert!(matches!(decode(&record), Outcome::Row(event) if event.device_id == "d"));
        assert_eq!(received_at(&record), 1_000_000);
        assert_eq!(id_of(&record, &mut String::new()), "kafka-2-7");
        assert!(is_made_id("kafka-2-7", 2, 7) && !is_made_id("kafka-2-7", 2, 8) && !is_made_id("2-7", 2, 7));
    }

    #[test]
    fn headers_of_the_gateway_count_and_damaged_ones_do_not() {
        let good = record(None, &[("id", Some(b"x-1")), ("received_at", Some(b"1763800000000001"))]);
        assert_eq!((received_at(&good), id_of(&good, &mut String::new())), (1_763_800_000_000_001, "x-1"));
        for bad in [&b"\xff"[..], b"", b"-1", b"99999999999999999999"] {
            let headers = [("received_at", Some(bad))];
            assert_eq!(received_at(&record(None, &headers)), 1_000_000);
        }
        let long = [b'x'; MAX_NAME_BYTES + 1];
        let headers = [("id", Some(&long[..]))];
        assert_eq!(id_of(&record(None, &headers), &mut String::new()), "kafka-2-7");
    }

    #[test]
    fn what_is_not_an_event_is_a_dead_letter_with_its_reason() {
        assert_eq!(reason(None), Reason::Empty);
        assert_eq!(reason(Some(b"")), Reason::InvalidJson);
        assert_eq!(reason(Some(b"\xff\xfe")), Reason::InvalidJson);
        assert_eq!(reason(Some(b"{}")), Reason::MissingDeviceId);
        assert_eq!(reason(Some(&vec![b' '; 5_000_000])), Reason::TooLarge);
    }
}
