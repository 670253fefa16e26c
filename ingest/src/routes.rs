//! The whole URL space, and what every request finds there.

use crate::accept;
use crate::breaker::Breaker;
use crate::clock::Clock;
use crate::condition::Condition;
use crate::config::Config;
use crate::correlation;
use crate::decode::ACCEPTED;
use crate::limits::Limits;
use crate::metrics::{self, DatasetMetrics, GatewayMetrics};
use crate::pressure::{Budget, Outage};
use crate::refusal::Refusal;
use crate::spill::{Queue, Spill};
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use eventlog::Log;
use lake::dataset::{Dataset, Priority};
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
    /// Through it the caller sees how the gateway does.
    pub condition: Condition,
    /// Where events wait while the log does not take them.
    pub spill: Option<Arc<Spill>>,
}

impl Deps {
    /// With the machine's clock.
    pub fn new(log: Arc<dyn Log>, datasets: Vec<Dataset>) -> Deps {
        Deps { log, datasets, clock: Clock::system(), condition: Condition::default(), spill: None }
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
        .layer(from_fn_with_state(Arc::clone(&gateway), correlation::around))
        .with_state(gateway)
}

/// One gateway: its settings, its log, and what it remembers.
pub(crate) struct Gateway {
    pub(crate) max_body: usize,
    pub(crate) max_events: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) append_timeout: Duration,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) datasets: HashMap<String, KnownDataset>,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) breaker_after: Duration,
    pub(crate) spill: Option<Arc<Spill>>,
    pub(crate) outage: Outage,
    pub(crate) audit: bool,
    pub(crate) clock: Clock,
    pub(crate) metrics: GatewayMetrics,
}

/// What the gateway needs of a dataset.
pub(crate) struct KnownDataset {
    pub(crate) name: String,
    pub(crate) max_age: i64,
    pub(crate) max_ahead: i64,
    pub(crate) priority: Priority,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) outage: Outage,
    /// Where its events wait, if they may.
    pub(crate) queue: Option<Arc<Queue>>,
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
        let known = |dataset: &Dataset| {
            let queue = deps.spill.as_ref().and_then(|spill| spill.queue(&dataset.name));
            (dataset.name.clone(), KnownDataset { queue, ..KnownDataset::new(dataset, http.breaker_after) })
        };
        let gateway = Arc::new(Gateway {
            max_body: size(http.max_body),
            max_events: (http.max_events as usize).min(room_for_events),
            body_timeout: http.body_timeout,
            append_timeout: http.append_timeout,
            log: deps.log,
            datasets: deps.datasets.iter().map(known).collect(),
            limits: Limits::new(limits, &deps.clock),
            budget: Budget::new(max_in_flight),
            breaker_after: http.breaker_after,
            spill: deps.spill,
            outage: Outage::new(),
            audit: http.audit,
            clock: deps.clock,
            metrics: GatewayMetrics::new(),
        });
        deps.condition.watch(&gateway);
        if let Some(spill) = &gateway.spill {
            spill.start(&gateway);
        }
        gateway
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
        let now = self.clock.elapsed();
        for dataset in self.datasets.values() {
            let breaker = &dataset.breaker;
            dataset.metrics.breaker(breaker.is_open(now), breaker.facts().waited(now));
        }
        if let Some(spill) = &self.spill {
            spill.measure();
        }
    }
}

impl KnownDataset {
    fn new(dataset: &Dataset, breaker_after: Duration) -> KnownDataset {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        KnownDataset {
            name: dataset.name.clone(),
            max_age: micros(dataset.spec.max_age),
            max_ahead: micros(dataset.spec.max_ahead),
            priority: dataset.spec.priority,
            breaker: Breaker::new(breaker_after),
            outage: Outage::new(),
            queue: None,
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
