//! How the process tells what it does: log lines and metrics.
//!
//! On a terminal there are coloured lines above one status line that is drawn again and again; elsewhere plain or JSON
//! lines, for people and machines. All of it goes to stderr: stdout belongs to what a command answers.

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Auto,
    Plain,
    Json,
}

/// Libraries that report every attempt of their own, which our roles report once and with its meaning.
const QUIET: &str = "rdkafka=off,eventlog::kafka::context=error,object_store=error,delta_kernel=off,\
                     delta_kernel_default_engine=off,fjall=warn,lsm_tree=warn,hyper=warn,hyper_util=warn";

/// Lines that are written only when they are wanted, so no filter needs to name them.
const ASKED_FOR: &str = "audit=info";

/// Upper ends of the buckets of `…_seconds` histograms.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper ends of the buckets of `…_bytes` histograms.
const BYTES: [f64; 8] = [1e3, 1e4, 1e5, 1e6, 8e6, 64e6, 256e6, 1e9];

/// What the rest of the process needs of it.
#[derive(Clone)]
pub struct Telemetry {
    pub metrics: PrometheusHandle,
    /// The status line, when stderr is a terminal.
    pub line: Option<ProgressBar>,
}

impl Telemetry {
    /// Starts logging and counting. Once per process.
    pub fn start(format: LogFormat, filter: Option<&str>) -> anyhow::Result<Telemetry> {
        let on_terminal = format == LogFormat::Auto && io::stderr().is_terminal();
        let line = on_terminal.then(status_line);
        let logs = tracing_subscriber::fmt().with_env_filter(filter_of(filter)?).with_writer(Lines(line.clone()));
        let started = match format {
            LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).try_init(),
            LogFormat::Auto | LogFormat::Plain => {
                let coloured = on_terminal && std::env::var_os("NO_COLOR").is_none();
                logs.with_ansi(coloured).try_init()
            }
        };
        started.map_err(|err| anyhow!("start logging: {err}"))?;
        let metrics = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES))
            .and_then(PrometheusBuilder::install_recorder)
            .context("start counting")?;
        Ok(Telemetry { metrics, line })
    }
}

/// `--log`, else RUST_LOG, else everything from `info` on; libraries stay quiet unless named.
fn filter_of(option: Option<&str>) -> anyhow::Result<EnvFilter> {
    let given = option.map(str::to_owned).or_else(|| std::env::var("RUST_LOG").ok()).filter(|given| !given.is_empty());
    let given = given.as_deref().unwrap_or("info");
    EnvFilter::try_new(format!("{QUIET},{ASKED_FOR},{given}"))
        .map_err(|err| anyhow!("`{given}` is not a log filter ({err}): use one such as info or info,processor=debug"))
}

fn status_line() -> ProgressBar {
    let line = ProgressBar::new_spinner();
    line.set_style(ProgressStyle::with_template("{wide_msg}").expect("a template"));
    line
}

/// Writes log lines so that they do not tear the status line.
struct Lines(Option<ProgressBar>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self.0.as_ref())
    }
}

/// Gets whole lines, for a line is formatted before it is written.
struct LineWriter<'a>(Option<&'a ProgressBar>);

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0 {
            Some(line) => line.suspend(|| io::stderr().write_all(bytes))?,
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_told_with_an_example() {
        let problem = filter_of(Some("info,=,=x")).unwrap_err().to_string();
        assert!(problem.contains("info,=,=x") && problem.contains("processor=debug"), "{problem}");
        assert!(filter_of(Some("warn,lake=trace")).is_ok());
    }
}
