//! The gateway that is measured: one that runs somewhere, or a process of this program that is started for it, so that
//! its CPU time and its memory are its own.

use super::super::args;
use super::super::scratch::Scratch;
use crate::config::Config;
use anyhow::{Context, bail};
use lake::dataset::DatasetSpec;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::Url;

/// Where the devices post to.
pub struct Target {
    pub to: Url,
    pub address: SocketAddr,
    /// What it is, in words.
    pub what: String,
    own: Option<Own>,
}

/// A process of its own, and where it keeps what it stores.
struct Own {
    child: Child,
    _scratch: Scratch,
}

/// Longer than a measurement: a connection that waits for its turn must not be closed as idle.
const IDLE_TIMEOUT: &str = "1h";
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(90);

impl Target {
    pub async fn find(args: &args::Ingest, config: &Config) -> anyhow::Result<Target> {
        match &args.to {
            Some(to) => Target::of(to.clone(), format!("the gateway at {to}"), None).await,
            None => Target::start(args, config).await,
        }
    }

    async fn of(to: Url, what: String, own: Option<Own>) -> anyhow::Result<Target> {
        let (scheme, host, port) = (to.scheme(), to.host_str().map(str::to_owned), to.port_or_known_default());
        let ("http", Some(host), Some(port)) = (scheme, host, port) else {
            bail!(
                "{to} is not a URL such as http://127.0.0.1:8080/v1/events/events: devices are simulated without TLS"
            );
        };
        let mut found = tokio::net::lookup_host((host.as_str(), port)).await.with_context(|| format!("find {host}"))?;
        let address = found.next().with_context(|| format!("{host} has no address"))?;
        Ok(Target { to, address, what, own })
    }

    /// Starts `up`, or with Kafka a gateway alone, over a directory or a topic of its own.
    async fn start(args: &args::Ingest, config: &Config) -> anyhow::Result<Target> {
        let scratch = Scratch::new(config, args.place.directory.as_deref(), DatasetSpec::default())?;
        let directory = scratch.config.data.as_path();
        let settings = directory.join("lakehose.toml");
        std::fs::write(&settings, format!("[datasets.{}]\n", scratch.dataset.name)).context("write the settings")?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(match &config.kafka.brokers {
            Some(brokers) => vec!["ingest", "--brokers", brokers],
            None => vec!["up"],
        });
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn"])
            .args([Path::new("--data"), directory, Path::new("--config"), &settings])
            .env("LAKEHOSE_INGEST_IDLE_TIMEOUT", IDLE_TIMEOUT)
            .env("LAKEHOSE_INGEST_HEADER_TIMEOUT", IDLE_TIMEOUT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("start a gateway")?;
        let to =
            tokio::time::timeout(STARTS_WITHIN, posts_to(&mut child)).await.context("the gateway does not start")??;
        let what = format!("a gateway with {}", scratch.log);
        Target::of(to, what, Some(Own { child, _scratch: scratch })).await
    }

    /// CPU time and resident memory (bytes) of the gateway's process, if it is one of this machine's.
    pub fn usage(&self) -> Option<(Duration, u64)> {
        let process = self.own.as_ref()?.child.id()?;
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name, in brackets, may hold anything; what follows does not.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
        let ticks = ticks(11)? + ticks(12)?;
        let pages = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
        let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
        let cpu = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        Some((cpu, pages * rustix::param::page_size() as u64))
    }

    /// Ends the process that was started for this, as an operator would.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Some(mut own) = self.own else { return Ok(()) };
        if let Some(process) = own.child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
            rustix::process::kill_process(process, rustix::process::Signal::TERM).context("stop the gateway")?;
        }
        let ended =
            tokio::time::timeout(STOPS_WITHIN, own.child.wait()).await.context("the gateway does not stop")??;
        anyhow::ensure!(ended.success(), "the gateway ended with {ended}");
        Ok(())
    }
}

/// What the process says on its first line.
async fn posts_to(child: &mut Child) -> anyhow::Result<Url> {
    let stdout = child.stdout.take().context("the gateway has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut found = None;
    while let Some(line) = lines.next_line().await? {
        if let Some(url) = line.strip_prefix("POST events to ") {
            found = Some(url.parse().with_context(|| format!("{url} is not a URL"))?);
            break;
        }
    }
    // Read on, or the process would be stopped by a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    found.context("the gateway ended at its start; it says why above")
}
