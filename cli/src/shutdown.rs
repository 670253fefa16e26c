//! How the process is told to end.

use std::process::exit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code of a process that was interrupted before it was done.
const INTERRUPTED: i32 = 130;

/// Cancelled by the first SIGINT or SIGTERM. A second one ends the process at once: what was acknowledged is in the
/// log and will be read again, what was being merged will be merged again, but not before the next start.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let name = next(&mut signals).await;
        info!(signal = name, "stopping; a second signal stops at once");
        token.cancel();
        let name = next(&mut signals).await;
        warn!(signal = name, "stopped before everything was done; nothing is lost, and the next start goes on");
        exit(INTERRUPTED);
    });
    Ok(shutdown)
}

async fn next((interrupt, terminate): &mut (Signal, Signal)) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
