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

/// Whether a component can do its work, and the reason if not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// It cannot, but what the process does for others goes on: told, and the process stays in service.
    Degraded(String),
    /// It cannot, and the process should be left alone until it can.
    Unready(String),
}

impl From<Result<(), String>> for Readiness {
    fn from(checked: Result<(), String>) -> Self {
        checked.map_or_else(Readiness::Unready, |()| Readiness::Ready)
    }
}

/// Asked by every probe, so it must be cheap.
type Check = Box<dyn Fn() -> Readiness + Send + Sync>;

/// The components of the process, and how each is asked.
#[derive(Default)]
pub struct Health {
    checks: Vec<(String, Check)>,
}

impl Health {
    /// Adds a component.
    pub fn watch<R: Into<Readiness>>(
        &mut self,
        component: impl Into<String>,
        check: impl Fn() -> R + Send + Sync + 'static,
    ) {
        self.checks.push((component.into(), Box::new(move || check().into())));
    }

    /// Whether the process should be in service, and what each component says.
    fn report(&self) -> (bool, Value) {
        let mut components = Map::new();
        let mut in_service = true;
        for (component, check) in &self.checks {
            let readiness = check();
            in_service &= !matches!(readiness, Readiness::Unready(_));
            let state = match readiness {
                Readiness::Ready => json!({"ready": true}),
                Readiness::Degraded(reason) | Readiness::Unready(reason) => json!({"ready": false, "reason": reason}),
            };
            components.insert(component.clone(), state);
        }
        (in_service, json!({"ready": in_service, "components": components}))
    }
}

/// Serves until dropped, so that probes and scrapes see the process drain. `stopping` makes it not ready.
pub async fn run(listener: TcpListener, mut health: Health, metrics: PrometheusHandle, stopping: CancellationToken) {
    health.watch("process", move || match stopping.is_cancelled() {
        true => Readiness::Unready("stopping: finishing what was accepted".to_owned()),
        false => Readiness::Ready,
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
    fn is_ready_unless_a_component_asks_to_be_left_alone_and_names_each_that_is_not() {
        let mut health = Health::default();
        health.watch("log", || Ok(()));
        assert!(health.report().0);
        health.watch("processor", || Readiness::Degraded("store: open".into()));
        let (ready, report) = health.report();
        assert!(ready, "it stays in service");
        let processor = &report["components"]["processor"];
        assert_eq!((&processor["ready"], &processor["reason"]), (&false.into(), &"store: open".into()));
        health.watch("lake", || Err("bucket not reachable".into()));
        let (ready, report) = health.report();
        assert!(!ready);
        assert_eq!(report["components"]["log"]["ready"], true);
        assert_eq!(report["components"]["lake"]["reason"], "bucket not reachable");
    }
}
