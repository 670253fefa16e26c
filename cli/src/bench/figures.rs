//! Figures and how they are shown, with the load of the machine beside them.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The figures of one measurement, in the order in which they were taken.
#[derive(Debug)]
pub struct Figures {
    what: String,
    load_before: Load,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Figures {
    /// To be made before the work, for the load of the machine is that of others then.
    pub fn new(what: impl Into<String>) -> Figures {
        Figures::since(what, &Load::now().0)
    }

    /// Of work that is done, with the load that the machine had before it.
    pub fn since(what: impl Into<String>, load_before: &str) -> Figures {
        let load_before = Load(load_before.to_owned());
        Figures { what: what.into(), load_before, figures: Vec::new(), notes: Vec::new() }
    }

    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    /// Says what no figure does.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// CPU time of one event, in nanoseconds.
    pub fn add_cost(&mut self, name: impl Into<String>, cpu: Duration, events: u64) {
        self.add(name, cpu.as_nanos() as f64 / events.max(1) as f64, "ns CPU/event");
    }

    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.to_json());
        } else {
            print!("{}", self.to_table());
        }
    }

    fn to_json(&self) -> Value {
        let figure = |figure: &Figure| (figure.name.clone(), json!({"value": figure.value, "unit": figure.unit}));
        let figures: Map<String, Value> = self.figures.iter().map(figure).collect();
        json!({
            "bench": self.what,
            "cores": cores(),
            "load_before": self.load_before.0,
            "load_after": Load::now().0,
            "figures": figures,
            "notes": self.notes,
        })
    }

    fn to_table(&self) -> String {
        let mut table = format!("{}; {} cores, load {} before", self.what, cores(), self.load_before.0);
        table += &format!(" and {} after\n", Load::now().0);
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
        for Figure { name, value, unit } in &self.figures {
            table += &format!("  {name:<width$}  {:>12}  {unit}\n", readable(*value));
        }
        for note in &self.notes {
            table += &format!("  {note}\n");
        }
        table
    }
}

/// Whole above a hundred, with thousands apart; below, three digits that count.
fn readable(value: f64) -> String {
    if value.abs() < 1.0 {
        return format!("{value:.3}");
    }
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.split_at(usize::from(value < 0.0));
    let mut apart = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

/// The load averages of the machine over 1, 5 and 15 minutes.
#[derive(Debug)]
pub struct Load(pub String);

impl Load {
    pub fn now() -> Load {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let averages: Vec<&str> = load.split(' ').take(3).collect();
        Load(if averages.len() == 3 { averages.join(" ") } else { "unknown".into() })
    }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// How long things took, kept as a distribution.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds that are allowed"))
    }

    pub fn add(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    /// The latency that a share of them did not exceed.
    pub fn milliseconds(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1_000.0
    }
}

/// CPU time that this process has used, all its threads together.
pub fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

/// CPU time that this thread has used.
pub fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_enough_to_read() {
        assert_eq!(readable(0.61234), "0.612");
        assert_eq!(readable(6.5), "6.50");
        assert_eq!(readable(412.4), "412");
        assert_eq!(readable(1_234_567.8), "1,234,568");
        assert_eq!(readable(-1_000.0), "-1,000");
    }

    #[test]
    fn the_table_and_the_json_hold_the_same() {
        let mut figures = Figures::new("nothing");
        figures.add_cost("decode", Duration::from_micros(1), 2);
        assert!(figures.to_table().contains("  decode           500  ns CPU/event\n"), "{}", figures.to_table());
        assert_eq!(figures.to_json()["figures"]["decode"]["value"], 500.0);
    }
}
