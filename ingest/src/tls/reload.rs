//! Looks after the files: new ones are taken while the gateway runs, once they have settled
//! ([`settled`](crate::settled)). What cannot be used is told once, not at every look.

use super::material::{Loaded, Material, TlsError};
use super::section::Files;
use crate::metrics;
use crate::settled::{EVERY, Settled};
use rustls::ServerConfig;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

/// What connections are served with, now and later, and the task that sees to it.
pub(super) fn start(files: Files) -> Result<(watch::Receiver<Arc<ServerConfig>>, JoinHandle<()>), TlsError> {
    let material = Material::read(&files)?;
    let Loaded { config, expires } = material.load(&files)?;
    metrics::tls_loaded(expires);
    let (publish, current) = watch::channel(config);
    Ok((current, tokio::spawn(look_after(files, Settled::new(Some(material)), publish))))
}

/// `seen`: what the files hold, `None` if they cannot be read.
async fn look_after(files: Files, mut seen: Settled<Option<Material>>, publish: watch::Sender<Arc<ServerConfig>>) {
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let files = files.clone();
        // Files may be on a disk that hangs.
        let look = tokio::task::spawn_blocking(move || (Material::read(&files), files)).await;
        let Ok((found, files)) = look else { continue };
        let readable = found.as_ref().ok().cloned();
        if seen.look(readable).is_none() {
            continue;
        }
        match found.and_then(|material| material.load(&files)) {
            Ok(Loaded { config, expires }) => {
                metrics::tls_loaded(expires);
                metrics::tls_reloaded(true);
                info!(expires, "certificate loaded");
                publish.send_replace(config);
            }
            Err(err) => {
                metrics::tls_reloaded(false);
                let cause = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
                error!(error = %err, cause, "new certificate cannot be used, the old one stays");
            }
        }
    }
}
