//! Points in time as people write and read them.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};

/// RFC 3339, a date (its first moment in UTC), or a duration, which is so long ago: microseconds since the epoch.
pub fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, Utc::now())
}

fn parse_at(text: &str, now: DateTime<Utc>) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Ok(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros());
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| i64::try_from(ago.as_micros()).ok());
    let ago = ago.ok_or("give a time as 2026-11-22T08:00:00Z, a date as 2026-11-22, or how long ago as 2h")?;
    Ok(now.timestamp_micros().saturating_sub(ago))
}

/// The same moment in RFC 3339, to the microsecond.
pub fn show(micros: i64) -> String {
    match DateTime::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Micros, true),
        None => micros.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_written_in_three_ways() {
        let now = DateTime::from_timestamp_micros(1_795_000_000_000_000).unwrap();
        assert_eq!(parse_at("2001-02-03T04:05:06.000007+01:00", now), Ok(981_169_506_000_007));
        assert_eq!(parse_at("1970-01-02", now), Ok(86_400_000_000));
        assert_eq!(parse_at("2h 30m", now), Ok(now.timestamp_micros() - 9_000_000_000));
        for wrong in ["", "yesterday", "2026-13-01", "2026-11-22T08:00:00", "-2h", "99999999999y"] {
            assert!(parse_at(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_can_be_asked_for() {
        let now = Utc::now();
        for micros in [0, 1, 981_169_506_000_007, now.timestamp_micros()] {
            assert_eq!(parse_at(&show(micros), now), Ok(micros));
        }
    }
}
