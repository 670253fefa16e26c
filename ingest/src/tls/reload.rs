//! Looks after the files: new ones are taken while the gateway runs.
//!
//! Certificates are replaced by tools that write one file after the other, so what is found counts only once it has been
//! the same twice. What cannot be used is told once, not at every look.

use super::material::{Loaded, Material, TlsError};
use super::section::Files;
use crate::metrics;
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

/// How often the files are read. They are small.
pub(super) const EVERY: Duration = Duration::from_millis(500);

/// What connections are served with, now and later, and the task that sees to it.
pub(super) fn start(files: Files) -> Result<(watch::Receiver<Arc<ServerConfig>>, JoinHandle<()>), TlsError> {
    let material = Material::read(&files)?;
    let Loaded { config, expires } = material.load(&files)?;
    metrics::tls_loaded(expires);
    let (publish, current) = watch::channel(config);
    let watched = Watched { seen: Some(material.clone()), decided: Some(material) };
    Ok((current, tokio::spawn(look_after(files, watched, publish))))
}

async fn look_after(files: Files, mut watched: Watched, publish: watch::Sender<Arc<ServerConfig>>) {
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let files = files.clone();
        // Files may be on a disk that hangs.
        let look = tokio::task::spawn_blocking(move || (Material::read(&files), files)).await;
        let Ok((found, files)) = look else { continue };
        let readable = found.as_ref().ok().cloned();
        if !watched.is_new(readable) {
            continue;
        }
        match found.and_then(|material| material.load(&files)) {
            Ok(Loaded { config, expires }) => {
                metrics::tls_loaded(expires);
                metrics::tls_reloaded("loaded");
                info!(expires, "certificate loaded");
                publish.send_replace(config);
            }
            Err(err) => {
                metrics::tls_reloaded("failed");
                let cause = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
                error!(error = %err, cause, "new certificate cannot be used, the old one stays");
            }
        }
    }
}

/// What was found at the last look, and what was decided on; `None` is files that could not be read.
struct Watched {
    seen: Option<Material>,
    decided: Option<Material>,
}

impl Watched {
    /// Whether what was found is to be decided on now: it is other than before, and the same as at the last look.
    fn is_new(&mut self, found: Option<Material>) -> bool {
        let is_stable = self.seen == found;
        self.seen = found;
        if !is_stable || self.seen == self.decided {
            return false;
        }
        self.decided = self.seen.clone();
        true
    }
}
