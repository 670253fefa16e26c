//! What was measured, as JSON and as lines on a terminal.

use super::super::args;
use super::super::figures::{Figures, Latencies, Load, cores};
use super::super::fleet::{Pace, Seen};
use super::BUSY;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything; the JSON that is written.
#[derive(Debug, Serialize)]
pub struct Report {
    pub gateway: String,
    pub cores: usize,
    /// Load averages of the machine over 1, 5 and 15 minutes.
    pub load_before: String,
    pub load_after: String,
    pub devices: u32,
    pub batch: u32,
    pub seconds: u64,
    pub held: Held,
    pub steps: Vec<Step>,
}

/// The connections that were open all the time.
#[derive(Debug, Default, Serialize)]
pub struct Held {
    pub connections: u32,
    /// Those of them that posted one event at the beginning and one at the end.
    pub silent: u64,
    pub answered_first: u64,
    pub answered_last: u64,
    /// Resident memory of the gateway's process before any was open, and with all of them.
    pub bytes_without: Option<u64>,
    pub bytes_with: Option<u64>,
}

/// One step with one pace.
#[derive(Debug, Serialize)]
pub struct Step {
    pub name: String,
    /// What was asked of the gateway; `None` where a request followed the answer.
    pub offered_requests_per_second: Option<f64>,
    pub requests_per_second: f64,
    pub events_per_second: f64,
    pub requests: u64,
    /// By status; 0: no answer came.
    pub answers: BTreeMap<u16, u64>,
    /// Requests that were not answered 202.
    pub failed: u64,
    pub latency_ms: Quantiles,
    /// Milliseconds at each of [`shares`].
    pub distribution: Vec<(f64, f64)>,
    /// p99 of the requests due in each second.
    pub p99_by_second: Vec<f64>,
    /// CPU time of the simulated devices, as a share of one core.
    pub devices_cpu: f64,
    /// CPU time of the gateway's process, in cores.
    pub gateway_cpu: Option<f64>,
}

/// Milliseconds from the moment at which a request was due to its answer.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

/// Where a distribution is drawn: evenly by the number of nines.
fn shares() -> impl Iterator<Item = f64> {
    (0..=40).map(|tenth| 1.0 - 10f64.powf(-f64::from(tenth) / 10.0))
}

impl Report {
    pub fn new(args: &args::Ingest, gateway: &str) -> Report {
        Report {
            gateway: gateway.to_owned(),
            cores: cores(),
            load_before: Load::now().0,
            load_after: String::new(),
            devices: args.devices,
            batch: args.batch,
            seconds: args.seconds,
            held: Held::default(),
            steps: Vec::new(),
        }
    }

    pub fn end(&mut self) {
        self.load_after = Load::now().0;
    }

    /// What must be known to read the figures right.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for step in &self.steps {
            if step.failed > 0 {
                notes.push(format!("{}: {} requests failed, by status: {:?}", step.name, step.failed, step.answers));
            }
            if step.devices_cpu > BUSY {
                let busy = step.devices_cpu * 100.0;
                notes.push(format!("{}: the devices took {busy:.0} % of a core, the gateway may do better", step.name));
            }
        }
        let Held { silent, answered_first, answered_last, .. } = self.held;
        if answered_first.min(answered_last) < silent {
            notes.push(format!(
                "of {silent} silent connections {answered_first} were answered at first, {answered_last} at last"
            ));
        }
        notes
    }

    pub fn print(&self, as_json: bool) {
        if as_json {
            // Numbers and texts always serialize.
            println!("{}", serde_json::to_string(self).unwrap_or_default());
            return;
        }
        let Report { gateway, devices, batch, held, .. } = self;
        let mut figures = Figures::since(
            format!("{gateway}; {devices} devices, {batch} events a request, {} connections", held.connections),
            &self.load_before,
        );
        if let (Some(without), Some(with)) = (held.bytes_without, held.bytes_with) {
            let each = with.saturating_sub(without) as f64 / f64::from(held.connections.max(1));
            figures.add("memory with all connections", with as f64 / 1e6, "MB, resident");
            figures.add("memory of a connection", each / 1e3, "kB");
        }
        for Step { name, events_per_second, latency_ms, .. } in &self.steps {
            figures.add(format!("{name}: rate"), *events_per_second, "events/s, durable");
            for (quantile, value) in latency_ms.named() {
                figures.add(format!("{name}: {quantile}"), value, "ms");
            }
        }
        self.notes().into_iter().for_each(|note| figures.note(note));
        figures.print(false);
    }
}

impl Step {
    pub fn of(name: &str, pace: Pace, seen: &Seen, batch: u32, devices: Duration, gateway: Option<Duration>) -> Step {
        let Seen { wall, answers, latencies, seconds } = seen;
        let wall = wall.as_secs_f64().max(f64::EPSILON);
        let requests_per_second = seen.accepted() as f64 / wall;
        let offered_requests_per_second = match pace {
            Pace::Steady(rate, _) => Some(rate),
            Pace::AfterTheAnswer(_) | Pace::AtOnce => None,
        };
        Step {
            name: name.to_owned(),
            offered_requests_per_second,
            requests_per_second,
            events_per_second: requests_per_second * f64::from(batch),
            requests: seen.requests(),
            answers: answers.clone(),
            failed: seen.requests() - seen.accepted(),
            latency_ms: Quantiles::of(latencies),
            distribution: shares().map(|share| (share, latencies.milliseconds(share))).collect(),
            p99_by_second: seconds.iter().map(|second| second.milliseconds(0.99)).collect(),
            devices_cpu: devices.as_secs_f64() / wall,
            gateway_cpu: gateway.map(|cpu| cpu.as_secs_f64() / wall),
        }
    }
}

impl Quantiles {
    fn of(latencies: &Latencies) -> Quantiles {
        let at = |share| latencies.milliseconds(share);
        Quantiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }

    pub fn named(&self) -> [(&'static str, f64); 5] {
        let Quantiles { p50, p95, p99, p99_9, max } = *self;
        [("p50", p50), ("p95", p95), ("p99", p99), ("p99.9", p99_9), ("max", max)]
    }
}
