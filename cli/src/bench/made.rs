//! Events made up for measuring: the same ones for the same seed, of the size that the documented figures are for.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use eventlog::NewRecord;
use lake::dataset::{Column, ColumnType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

const DEVICES: u32 = 10_000;
/// Of events that come one after another, unless it is said: 100,000 a second.
const APART: TimeDelta = TimeDelta::microseconds(10);

/// An endless stream of events.
#[derive(Debug)]
pub struct Events {
    random: StdRng,
    next: DateTime<Utc>,
    apart: TimeDelta,
}

/// One event, as a device posts it.
#[derive(Debug)]
pub struct Made {
    pub id: String,
    pub device_id: String,
    pub json: String,
}

impl Events {
    /// Events from `first` on, by the clocks of the devices.
    pub fn from(first: DateTime<Utc>) -> Events {
        Events::apart(first, APART)
    }

    /// Events from `first` on, each so much after the one before.
    pub fn apart(first: DateTime<Utc>, apart: TimeDelta) -> Events {
        Events { random: StdRng::seed_from_u64(7), next: first, apart }
    }
}

impl Iterator for Events {
    type Item = Made;

    fn next(&mut self) -> Option<Made> {
        let random = &mut self.random;
        let id = Uuid::from_u128(random.random()).to_string();
        let device_id = format!("device-{:06}", random.random_range(0..DEVICES));
        let time = self.next.to_rfc3339_opts(SecondsFormat::Millis, true);
        let temp = f64::from(random.random_range(-1_000..4_000)) / 100.0;
        let (battery, rssi) = (random.random_range(0..=100), random.random_range(30..=99));
        let (minor, patch) = (random.random_range(0..10), random.random_range(0..10));
        let json = format!(
            r#"{{"id":"{id}","device_id":"{device_id}","type":"heartbeat","time":"{time}","data":{{"temp":{temp:.2},"battery":{battery},"firmware":{{"version":"1.{minor}.{patch}"}},"rssi":-{rssi},"charging":true}}}}"#
        );
        self.next += self.apart;
        Some(Made { id, device_id, json })
    }
}

impl Made {
    /// The record that the gateway makes of it.
    pub fn into_record(self, received_at: &Bytes) -> NewRecord {
        let headers = vec![("id", Bytes::from(self.id)), ("received_at", received_at.clone())];
        NewRecord { key: self.device_id.into(), value: self.json.into(), headers }
    }
}

/// Columns that take every kind of member there is in `data`, save one that stays.
pub fn columns() -> Vec<Column> {
    let column = |name: &str, kind, from: &[&str]| Column {
        name: name.into(),
        kind,
        from: from.iter().map(|name| name.to_string()).collect(),
        stats: false,
    };
    vec![
        column("temp", ColumnType::Double, &["temp"]),
        column("battery", ColumnType::Long, &["battery"]),
        column("fw", ColumnType::String, &["firmware", "version"]),
        column("rssi", ColumnType::Int, &["rssi"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::event::Event;

    #[test]
    fn events_are_valid_and_of_the_documented_size() {
        let events: Vec<Made> = Events::from(Utc::now()).take(1_000).collect();
        assert!(events.iter().all(|made| Event::parse(made.json.as_bytes()).is_ok()));
        let mean = events.iter().map(|made| made.json.len()).sum::<usize>() / events.len();
        assert!((210..=226).contains(&mean), "{mean}");
    }

    #[test]
    fn the_same_events_come_again() {
        let first = Utc::now();
        let texts = || Events::from(first).take(10).map(|made| made.json).collect::<Vec<_>>();
        assert_eq!(texts(), texts());
    }
}
