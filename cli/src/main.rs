//! The binary `lakehose`: every role as a subcommand, all of them in one process (`up`), and tools.
//!
//! Read in the order of the `mod` lines: what the user may say, what it means, how the process shows itself, how it
//! ends, and then what each subcommand starts.

#![allow(unreachable_pub, reason = "a binary exports nothing: `pub` tells what a module offers the others")]

mod args;
mod config;
mod listen;
mod telemetry;
mod status;
mod admin;
mod process;
mod shutdown;
mod parts;

use args::{Args, Command};
use config::Config;
use std::process::ExitCode;
use std::time::Duration;
use telemetry::Telemetry;

fn main() -> ExitCode {
    let args = match Args::from_command_line() {
        Ok(args) => args,
        Err(answer) => return answer,
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("lakehose: {}", one_line(&format!("{err:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(args.global.log_format, args.global.log.as_deref())?;
    let config = Config::load(args.global.config.as_deref(), args.overrides())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        match args.command {
            _ => {
                let _ = (config, telemetry);
                Ok(())
            }
        }
    });
    // Everything was drained before; what still blocks is a call that nobody waits for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

/// Errors of libraries may span lines; ours are one.
fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
