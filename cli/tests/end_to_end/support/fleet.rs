//! Many devices at once, and the ledger of what they know at the end.

use super::device::{Device, Entry};
use super::{PATIENCE, http, wait_for};
use chrono::{DateTime, Utc};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How many devices post how much, how fast.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub devices: usize,
    pub events_per_device: u64,
    pub batch: u64,
    pub pause: Duration,
}

impl Size {
    pub fn total(&self) -> u64 {
        self.devices as u64 * self.events_per_device
    }
}

/// Devices that post.
pub struct Fleet {
    address: watch::Sender<String>,
    acknowledged: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
    devices: Vec<(String, JoinHandle<Vec<Entry>>)>,
}

impl Fleet {
    /// Sends the devices of `size` off, numbered from `first`.
    pub fn start(url: String, size: Size, first: usize) -> Fleet {
        Fleet::start_padded(url, size, first, 0)
    }

    /// The same with events that are larger by `padding` bytes.
    pub fn start_padded(url: String, size: Size, first: usize, padding: usize) -> Fleet {
        let (address, listening) = watch::channel(url);
        let (acknowledged, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let client = http::client();
        let since = start_of_times();
        let devices = (first..first + size.devices).map(|number| {
            let Size { events_per_device: events, batch, pause, .. } = size;
            let device = Device { number, events, batch, pause, since, padding };
            let (client, listening) = (client.clone(), listening.clone());
            let (acknowledged, enough) = (Arc::clone(&acknowledged), Arc::clone(&enough));
            let name = device.name();
            (name, http::RUNTIME.spawn(async move { device.run(client, listening, &acknowledged, &enough).await }))
        });
        Fleet { devices: devices.collect(), address, acknowledged, enough }
    }

    /// Tells the devices where the gateway is now.
    pub fn go_to(&self, url: String) {
        self.address.send_replace(url);
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many events were acknowledged.
    #[track_caller]
    pub fn wait_for(&self, events: u64) {
        let what = format!("{events} events acknowledged");
        wait_for(&what, PATIENCE, || {
            assert!(!self.devices.iter().any(|(_, task)| task.is_finished()) || self.acknowledged() > 0, "all ended");
            (self.acknowledged() >= events).then_some(())
        });
    }

    /// Tells the devices to post no further events, and waits until those that they have are acknowledged.
    pub fn stop(self) -> Ledger {
        self.enough.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until every device got an acknowledgement for every event.
    pub fn finish(self) -> Ledger {
        let devices = self.devices.into_iter().map(|(name, task)| {
            let entries = http::RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, task).await });
            (name, entries.expect("every event acknowledged in time").expect("no device panicked"))
        });
        Ledger { devices: devices.collect() }
    }
}

/// Noon of yesterday: three days and no event older or newer than a gateway accepts.
pub fn start_of_times() -> DateTime<Utc> {
    let day = Utc::now().date_naive() - chrono::Days::new(1);
    day.and_hms_opt(12, 0, 0).unwrap().and_utc()
}

/// What the devices know.
#[derive(Debug, Default)]
pub struct Ledger {
    devices: Vec<(String, Vec<Entry>)>,
}

impl Ledger {
    /// Of devices, by their names.
    pub fn of(devices: Vec<(String, Vec<Entry>)>) -> Ledger {
        Ledger { devices }
    }

    pub fn add(&mut self, other: Ledger) {
        self.devices.extend(other.devices);
    }

    /// Events that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.devices.iter().map(|(_, entries)| entries.len() as u64).sum()
    }

    /// Events whose fate a device did not learn at first.
    pub fn retried(&self) -> usize {
        self.devices.iter().flat_map(|(_, entries)| entries).filter(|entry| entry.attempts > 1).count()
    }

    /// How many copies of events may be in the log beyond the first ones.
    pub fn spare_attempts(&self) -> u64 {
        let attempts = |entries: &Vec<Entry>| entries.iter().map(|entry| u64::from(entry.attempts) - 1).sum::<u64>();
        self.devices.iter().map(|(_, entries)| attempts(entries)).sum()
    }

    /// Writes it for DuckDB.
    pub fn write(&self, file: &Path) {
        let mut csv = String::from("id,device_id,seq,attempts\n");
        for (name, entries) in &self.devices {
            for Entry { seq, attempts } in entries {
                writeln!(csv, "{name}/{seq},{name},{seq},{attempts}").unwrap();
            }
        }
        std::fs::write(file, csv).unwrap();
    }
}
