//! The admin listener: `/livez`, `/readyz`, `/metrics`, on a port that devices do not reach.

use crate::process;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, serve};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Whether a component can do its work; the reason if not. Asked by every probe, so it must be cheap.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The components of the process, and how each is asked.
#[derive(Default)]
pub struct Health {
    checks: Vec<(String, Check)>,
}

impl Health {
    /// Adds a component.
    pub fn watch(
        &mut self,
        component: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.checks.push((component.into(), Box::new(check)));
    }

    /// Whether all are ready, and what each says.
    fn report(&self) -> (bool, Value) {
        let mut components = Map::new();
        let mut all_ready = true;
        for (component, check) in &self.checks {
            let state = match check() {
                Ok(()) => json!({"ready": true}),
                Err(reason) => {
                    all_ready = false;
                    json!({"ready": false, "reason": reason})
                }
            };
            components.insert(component.clone(), state);
        }
        (all_ready, json!({"ready": all_ready, "components": components}))
    }
}

/// Serves until dropped, so that probes and scrapes see the process drain. `stopping` makes it not ready.
pub async fn run(listener: TcpListener, mut health: Health, metrics: PrometheusHandle, stopping: CancellationToken) {
    health.watch("process", move || match stopping.is_cancelled() {
        true => Err("stopping: finishing what was accepted".to_owned()),
        false => Ok(()),
    });
    let upkeep = metrics.clone();
    let keep_up = async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    };
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .with_state((Arc::new(health), metrics));
    tokio::select! {
        served = serve(listener, routes) => if let Err(err) = served {
            warn!(error = %err, "admin listener failed");
        },
        () = keep_up => {}
    }
}

type Shared = State<(Arc<Health>, PrometheusHandle)>;

async fn readyz(State((health, _)): Shared) -> Response {
    let (ready, report) = health.report();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn render_metrics(State((_, metrics)): Shared) -> Response {
    process::measure();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_when_every_component_is_and_names_the_one_that_is_not() {
        let mut health = Health::default();
        health.watch("log", || Ok(()));
        assert!(health.report().0);
        health.watch("lake", || Err("bucket not reachable".into()));
        let (ready, report) = health.report();
        assert!(!ready);
        assert_eq!(report["components"]["log"]["ready"], true);
        assert_eq!(report["components"]["lake"]["reason"], "bucket not reachable");
    }
}
