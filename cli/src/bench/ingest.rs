//! `lakehose bench ingest`: thousands of simulated devices, and how long each waits at a quarter, a half, three quarters
//! and all of the load that the gateway takes at most.
//!
//! In this order, over connections that stay open from the first step to the last: what the open connections cost, the
//! most that the gateway takes, the shares of it, all devices at the same moment, and one event on each connection that
//! was held open without a word.

mod target;
mod report;
mod plot;
mod page;

use super::args;
use super::figures::thread_cpu;
use super::fleet::{Fleet, Pace, Seen};
use super::post::Posts;
use super::served::single_thread;
use crate::config::Config;
use anyhow::Context;
use report::{Held, Report, Step};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use target::Target;

/// Requests a second on connections that are only held open.
const CALM: f64 = 2_000.0;
/// The share of a core beyond which the simulated devices, and not the gateway, may be what a figure shows.
const BUSY: f64 = 0.85;

pub async fn run(args: &args::Ingest, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let (args, config) = (args.clone(), config.clone());
    // On a thread of their own, so that the CPU time of the devices can be told.
    let report = tokio::task::spawn_blocking(move || {
        let report = single_thread()?.block_on(measure(&args, &config))?;
        if let Some(path) = &args.report {
            write(&report, path)?;
        }
        anyhow::Ok(report)
    });
    report.await??.print(as_json);
    Ok(())
}

async fn measure(args: &args::Ingest, config: &Config) -> anyhow::Result<Report> {
    let target = Target::find(args, config).await?;
    let posts = |batch| Posts::new(&target.to, args.key.as_deref(), batch).map(Arc::new);
    let mut report = Report::new(args, &target.what);
    let lasts = Duration::from_secs(args.seconds);

    let without = target.usage();
    let silent = args.connections.saturating_sub(args.devices) as usize;
    let mut held = Fleet::open(target.address, posts(1)?, silent).await?;
    let mut devices = Fleet::open(target.address, posts(args.batch as usize)?, args.devices as usize).await?;
    // Whoever connects and says nothing is closed soon.
    let first = held.post(Pace::Steady(CALM, Duration::from_secs_f64(silent as f64 / CALM))).await?;
    devices.post(Pace::AtOnce).await?;
    let with = target.usage();

    let most = step(&target, &mut devices, "most", Pace::AfterTheAnswer(lasts), args.batch).await?;
    let capacity = most.requests_per_second;
    report.steps.push(most);
    for load in &args.loads {
        let rate = capacity * f64::from(*load) / 100.0;
        let name = format!("{load} %");
        report.steps.push(step(&target, &mut devices, &name, Pace::Steady(rate, lasts), args.batch).await?);
    }
    report.steps.push(step(&target, &mut devices, "all at once", Pace::AtOnce, args.batch).await?);

    let last = held.post(Pace::Steady(CALM, Duration::from_secs_f64(silent as f64 / CALM))).await?;
    report.held = Held {
        connections: args.connections.max(args.devices),
        silent: silent as u64,
        answered_first: first.accepted(),
        answered_last: last.accepted(),
        bytes_without: without.map(|(_, bytes)| bytes),
        bytes_with: with.map(|(_, bytes)| bytes),
    };
    target.stop().await?;
    report.end();
    Ok(report)
}

async fn step(target: &Target, devices: &mut Fleet, name: &str, pace: Pace, batch: u32) -> anyhow::Result<Step> {
    let (own, gateway) = (thread_cpu(), target.usage());
    let seen: Seen = devices.post(pace).await?;
    let (own, after) = (thread_cpu() - own, target.usage());
    let gateway = gateway.zip(after).map(|((before, _), (after, _))| after.saturating_sub(before));
    Ok(Step::of(name, pace, &seen, batch, own, gateway))
}

/// Writes the page to `path`, and the same as JSON beside it.
fn write(report: &Report, path: &Path) -> anyhow::Result<()> {
    let page = page::render(report).context("draw the plots")?;
    let json = serde_json::to_string_pretty(report)?;
    for (path, text) in [(path.to_owned(), page), (path.with_extension("json"), json)] {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
