//! The whole URL space, and what every request finds there.

use crate::accept;
use crate::body::Bounds;
use crate::clock::Clock;
use crate::config::Config;
use crate::decode::ACCEPTED;
use crate::limits::Limits;
use crate::metrics::{self, DatasetMetrics, GatewayMetrics};
use crate::pressure::{Budget, Outage};
use crate::refusal::Refusal;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use eventlog::Log;
use lake::dataset::Dataset;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::error;

/// What the gateway works with.
pub struct Deps {
    pub log: Arc<dyn Log>,
    /// The topics must exist: the gateway does not create them.
    pub datasets: Vec<Dataset>,
    pub clock: Clock,
}

impl Deps {
    /// With the machine's clock.
    pub fn new(log: Arc<dyn Log>, datasets: Vec<Dataset>) -> Deps {
        Deps { log, datasets, clock: Clock::system() }
    }
}

/// The gateway without sockets: `config` must have been checked.
pub fn router(config: &Config, deps: Deps) -> Router {
    routes(Gateway::new(config, deps))
}

pub(crate) fn routes(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/v1/events/{dataset}", post(accept::events))
        .fallback(async || Refusal::NoSuchPath)
        .method_not_allowed_fallback(async || Refusal::WrongMethod)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(gateway)
}

/// One gateway: its settings, its log, and what it remembers.
pub(crate) struct Gateway {
    pub(crate) body_bounds: Bounds,
    pub(crate) max_events: usize,
    pub(crate) append_timeout: Duration,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) datasets: HashMap<String, KnownDataset>,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) outage: Outage,
    pub(crate) clock: Clock,
    pub(crate) metrics: GatewayMetrics,
}

/// What the gateway needs of a dataset.
pub(crate) struct KnownDataset {
    pub(crate) name: String,
    pub(crate) max_age: i64,
    pub(crate) max_ahead: i64,
    pub(crate) metrics: DatasetMetrics,
}

/// What one event occupies beside its share of the body, while the log has it: record, headers, an id, list entries.
pub(crate) const EVENT_BYTES: usize = 512;

impl Gateway {
    pub(crate) fn new(config: &Config, deps: Deps) -> Arc<Gateway> {
        let Config { http, limits } = config;
        let size = |bytes: bytesize::ByteSize| usize::try_from(bytes.as_u64()).unwrap_or(usize::MAX);
        let max_in_flight = size(http.max_in_flight);
        // A body takes at most one half (`Config::check`) and its events the other, so on an idle gateway every
        // request within its bounds fits.
        let room_for_events = (max_in_flight / 2 / EVENT_BYTES).max(1);
        Arc::new(Gateway {
            body_bounds: Bounds {
                max: size(http.max_body),
                timeout: http.body_timeout,
                window: http.min_rate_window,
                window_bytes: http.window_bytes(),
            },
            max_events: (http.max_events as usize).min(room_for_events),
            append_timeout: http.append_timeout,
            log: deps.log,
            datasets: deps.datasets.iter().map(|dataset| (dataset.name.clone(), KnownDataset::new(dataset))).collect(),
            limits: Limits::new(limits, &deps.clock),
            budget: Budget::new(max_in_flight),
            outage: Outage::new(),
            clock: deps.clock,
            metrics: GatewayMetrics::new(),
        })
    }

    /// The names of the datasets, as answers list them.
    pub(crate) fn known_datasets(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.datasets.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Publishes what is a state and not an event.
    pub(crate) fn measure(&self) {
        metrics::in_flight(self.budget.used());
        self.limits.measure();
    }
}

impl KnownDataset {
    fn new(dataset: &Dataset) -> KnownDataset {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        KnownDataset {
            name: dataset.name.clone(),
            max_age: micros(dataset.spec.max_age),
            max_ahead: micros(dataset.spec.max_ahead),
            metrics: DatasetMetrics::new(&dataset.name),
        }
    }
}

/// For who opens the address in a browser.
async fn index(State(gateway): State<Arc<Gateway>>) -> Response {
    Json(json!({
        "service": "lakehose",
        "post_events": "/v1/events/{dataset}",
        "content_types": ACCEPTED.split(", ").collect::<Vec<_>>(),
        "datasets": gateway.known_datasets(),
    }))
    .into_response()
}

fn panicked(payload: Box<dyn std::any::Any + Send>) -> Response {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    error!(panic = text.unwrap_or("without a text"), "request handler panicked");
    Refusal::Panicked.into_response()
}
