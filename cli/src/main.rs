//! The binary `lakehose`: every role as a subcommand, all of them in one process (`up`), and tools.
//!
//! Read in the order of the `mod` lines: what the user may say and what it means, how the process shows itself, what it
//! works with, which roles it plays and how they end, the tools, and how a failure is told.

#![allow(unreachable_pub, reason = "a binary exports nothing: `pub` tells what a module offers the others")]

mod allocator;
mod args;
mod config;
mod listen;
mod telemetry;
mod status;
mod admin;
mod process;
mod log;
mod tables;
mod print;
mod welcome;
mod roles;
mod parts;
mod shutdown;
mod files;
mod compact;
mod history;
mod sweep;
mod dead;
mod delete;
mod keys;
mod check;
mod bench;
mod failure;

use args::{Args, Command};
use config::Config;
use roles::Roles;
use std::process::ExitCode;
use std::time::Duration;
use telemetry::Telemetry;

fn main() -> ExitCode {
    let args = match Args::from_command_line() {
        Ok(args) => args,
        Err(answer) => return answer,
    };
    allocator::bound_memory_of_threads(match args.command.only_merges() {
        true => allocator::OF_MERGES,
        false => allocator::OF_ALL_ROLES,
    });
    process::raise_file_limit();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("lakehose: {}", failure::in_one_line(&err));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(args.global.log_format, args.global.log.as_deref())?;
    let config = Config::load(args.global.config.as_deref(), args.overrides())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(dispatch(&args.command, config, telemetry));
    // Everything was drained before; what still blocks is a call that nobody waits for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

async fn dispatch(command: &Command, config: Config, telemetry: Telemetry) -> anyhow::Result<()> {
    match command {
        Command::Up(up) => {
            listen::refuse_exposed(&config, up.http.insecure)?;
            roles::run(Roles::ALL, config, telemetry).await
        }
        Command::Ingest(ingest) => {
            listen::refuse_exposed(&config, ingest.http.insecure)?;
            log::require_shared(&config, "ingest")?;
            roles::run(Roles::INGEST, config, telemetry).await
        }
        Command::Processor(_) => {
            log::require_shared(&config, "processor")?;
            roles::run(Roles::PROCESSOR, config, telemetry).await
        }
        Command::Compactor(_) => roles::run(Roles::COMPACTOR, config, telemetry).await,
        Command::Files(files) => files::run(files, &config).await,
        Command::Compact(compact) => compact::run(compact, &config, telemetry).await,
        Command::History(history) => history::run(history, &config).await,
        Command::Sweep(args) => sweep::run(args, &config, telemetry.line).await,
        Command::Dead(args) => dead::run(args, &config).await,
        Command::Delete(args) => delete::run(args, &config, telemetry.line).await,
        Command::Keys(args) => keys::run(args, &config),
        Command::Check(_) => check::run(&config).await,
        Command::Bench(args) => bench::run(args, &config).await,
    }
}
