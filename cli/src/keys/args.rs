//! What can be said to `lakehose keys`.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use ingest::auth::keys::check_name;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Keys {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Subcommand)]
pub enum What {
    /// Make a key and print it, which is the only time that it can be seen
    Create(Create),
    /// List keys: what they are called, what they may post, until when
    Ls(Ls),
    /// Revoke a key; running gateways refuse it within two seconds
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// What the key is called in logs and lists
    #[arg(value_parser = name)]
    pub name: String,
    /// A dataset that it may post to; may be given several times [default: all]
    #[arg(long = "dataset", value_name = "DATASET", value_parser = NonEmptyStringValueParser::new())]
    pub datasets: Vec<String>,
    /// It may post only events whose device_id begins so
    #[arg(long, value_name = "PREFIX", value_parser = NonEmptyStringValueParser::new())]
    pub device_prefix: Option<String>,
    /// It may post only events of this device
    #[arg(long, value_name = "DEVICE_ID", value_parser = NonEmptyStringValueParser::new(), conflicts_with = "device_prefix")]
    pub device: Option<String>,
    /// Until when it is good: a time from now as 90d, or a date or RFC 3339 [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = until)]
    pub expires: Option<i64>,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Ls {
    /// One JSON object a line, instead of columns
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// The name or the id of the key
    #[arg(value_name = "NAME|ID")]
    pub key: String,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// The file of keys [default: the one that the configuration names, else keys.toml]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

/// Microseconds since the epoch.
fn until(text: &str) -> Result<i64, String> {
    until_from(text, Utc::now())
}

fn until_from(text: &str, now: DateTime<Utc>) -> Result<i64, String> {
    let time = match (DateTime::parse_from_rfc3339(text), text.parse::<NaiveDate>(), humantime::parse_duration(text)) {
        (Ok(time), ..) => Some(time.to_utc()),
        (_, Ok(date), _) => Some(date.and_time(NaiveTime::MIN).and_utc()),
        (.., Ok(from_now)) => chrono::Duration::from_std(from_now).ok().and_then(|time| now.checked_add_signed(time)),
        _ => None,
    };
    // Beyond the year 9999 there is no RFC 3339 to write it with.
    let time = time.filter(|time| time.timestamp() < 253_402_300_800);
    match time {
        Some(time) if time > now => Ok(time.timestamp_micros()),
        Some(_) => Err("that has passed: give a time to come".to_owned()),
        None => Err("give a time from now as 90d, a date as 2027-11-22, or a time as 2027-11-22T08:00:00Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_may_be_written_in_three_ways_and_lies_ahead() {
        let now = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        assert_eq!(until_from("90d", now), Ok((1_795_000_000 + 90 * 86_400) * 1_000_000));
        assert_eq!(until_from("2040-01-01", now), Ok(2_208_988_800_000_000));
        assert_eq!(until_from("2040-01-01T01:00:00+01:00", now), Ok(2_208_988_800_000_000));
        for wrong in
            ["", "soon", "-1d", "0s", "2020-01-01", "2040-13-01", "2040-01-01T00:00:00", "9000y", "99999999999y"]
        {
            assert!(until_from(wrong, now).is_err(), "{wrong}");
        }
    }
}
