//! The whole URL space, and what every request finds there.

use crate::accept;
use crate::auth::{Auth, Door, Scope};
use crate::body::{Bounds, DECODER_BYTES};
use crate::breaker::Breaker;
use crate::caller::{Caller, peer};
use crate::clock::Clock;
use crate::cloudevents;
use crate::condition::Condition;
use crate::config::Config;
use crate::correlation;
use crate::decode::ACCEPTED;
use crate::docs_page;
use crate::idempotency::Idempotency;
use crate::limits::{self, Limits, Meters};
use crate::metrics::{self, DatasetMetrics, GatewayMetrics};
use crate::pressure::{Budget, Outage};
use crate::priority::{Classes, Share};
use crate::proxies::Proxies;
use crate::refusal::Refusal;
use crate::spill::{Queue, Spill};
use axum::extract::State;
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use eventlog::Log;
use lake::dataset::{Dataset, Priority};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::error;
use utoipa::ToSchema;

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
    /// Who may post; `None`: everybody.
    pub auth: Option<Arc<Auth>>,
}

impl Deps {
    /// With the machine's clock, for everybody.
    pub fn new(log: Arc<dyn Log>, datasets: Vec<Dataset>) -> Deps {
        Deps { log, datasets, clock: Clock::system(), condition: Condition::default(), spill: None, auth: None }
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
        .route("/openapi.json", get(docs_page::description))
        .route("/docs", get(docs_page::enter))
        .route("/docs/", get(docs_page::front))
        .route("/docs/{file}", get(docs_page::part))
        .fallback(async || Refusal::NoSuchPath)
        .method_not_allowed_fallback(async || Refusal::WrongMethod)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&gateway), correlation::around))
        .with_state(gateway)
}

/// One gateway: its settings, its log, and what it remembers.
pub(crate) struct Gateway {
    pub(crate) body_bounds: Bounds,
    pub(crate) max_events: usize,
    pub(crate) append_timeout: Duration,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) datasets: HashMap<String, KnownDataset>,
    pub(crate) door: Option<Door>,
    pub(crate) limits: Limits,
    pub(crate) proxies: Proxies,
    pub(crate) budget: Arc<Budget>,
    pub(crate) breaker_after: Duration,
    pub(crate) spill: Option<Arc<Spill>>,
    pub(crate) outage: Outage,
    pub(crate) audit: bool,
    pub(crate) idempotency: Idempotency,
    /// Requests with an idempotency key, which go on without their clients.
    pub(crate) keyed: TaskTracker,
    pub(crate) clock: Clock,
    pub(crate) metrics: GatewayMetrics,
}

/// What the gateway needs of a dataset.
pub(crate) struct KnownDataset {
    pub(crate) name: String,
    pub(crate) max_age: i64,
    pub(crate) max_ahead: i64,
    pub(crate) priority: Priority,
    /// What its class may fill of the global limit.
    pub(crate) share: Share,
    /// Its requests are refused when all requests under way would hold more bytes than this.
    pub(crate) max_in_flight: usize,
    pub(crate) meters: Meters,
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
        let Config { http, limits, .. } = config;
        let size = |bytes: bytesize::ByteSize| usize::try_from(bytes.as_u64()).unwrap_or(usize::MAX);
        let max_in_flight = size(http.max_in_flight);
        // A body takes at most one half (`Config::check`) and its events the other, so on an idle gateway every plain
        // request within its bounds fits. One that is compressed or translated may need more, and has it if it is alone.
        let room_for_events = (max_in_flight / 2 / EVENT_BYTES).max(1);
        let max_body = size(http.max_body);
        let max_events = (http.max_events as usize).min(room_for_events);
        let largest = max_body.saturating_add(max_events * EVENT_BYTES);
        // To decompress, a body is read to one byte more than it may have.
        let alone = (largest + cloudevents::most_translated(max_body)).max(max_body + 1 + DECODER_BYTES);

        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let classes = Classes::of(&deps.datasets);
        let known = |dataset: &Dataset| {
            let share = classes.share(dataset.spec.priority);
            let known = KnownDataset {
                name: dataset.name.clone(),
                max_age: micros(dataset.spec.max_age),
                max_ahead: micros(dataset.spec.max_ahead),
                priority: dataset.spec.priority,
                share,
                max_in_flight: share.of_bytes_in_flight(max_in_flight, largest),
                meters: Meters::of_dataset(limits.of_dataset(&dataset.name), &deps.clock),
                breaker: Breaker::new(http.breaker_after),
                outage: Outage::new(),
                queue: deps.spill.as_ref().and_then(|spill| spill.queue(&dataset.name)),
                metrics: DatasetMetrics::new(&dataset.name),
            };
            (dataset.name.clone(), known)
        };
        let gateway = Arc::new(Gateway {
            body_bounds: Bounds {
                max: max_body,
                timeout: http.body_timeout,
                window: http.min_rate_window,
                window_bytes: http.window_bytes(),
            },
            max_events,
            append_timeout: http.append_timeout,
            log: deps.log,
            datasets: deps.datasets.iter().map(known).collect(),
            door: deps.auth.map(|auth| Door::new(auth, &deps.clock)),
            limits: Limits::new(limits, &deps.clock),
            proxies: Proxies { trusted: http.trusted_proxies.clone(), header: http.proxy_header },
            budget: Budget::new(max_in_flight, alone),
            breaker_after: http.breaker_after,
            spill: deps.spill,
            outage: Outage::new(),
            audit: http.audit,
            idempotency: Idempotency::new(http),
            keyed: TaskTracker::new(),
            clock: deps.clock,
            metrics: GatewayMetrics::new(),
        });
        deps.condition.watch(&gateway);
        if let Some(spill) = &gateway.spill {
            spill.start(&gateway);
        }
        gateway
    }

    /// Who has sent this head, if they may come in.
    pub(crate) fn caller(&self, head: &Parts) -> Result<Caller, Refusal> {
        let stranger = Caller::of(self.proxies.client(peer(head), &head.headers), head);
        match &self.door {
            None => Ok(stranger),
            Some(door) => Ok(door.identify(stranger, head)?),
        }
    }

    /// The dataset of this name, if the caller may post to it.
    pub(crate) fn dataset(&self, name: Option<&str>, scope: &Scope) -> Result<&KnownDataset, Refusal> {
        let open_to_caller = || self.known_datasets(scope).join(", ");
        match name.and_then(|name| self.datasets.get(name)) {
            None => Err(Refusal::UnknownDataset { known: open_to_caller() }),
            Some(dataset) if scope.allows_dataset(&dataset.name) => Ok(dataset),
            Some(_) => Err(Refusal::DatasetNotAllowed { allowed: open_to_caller() }),
        }
    }

    /// The names of the datasets in a scope, as answers list them.
    fn known_datasets(&self, scope: &Scope) -> Vec<&str> {
        let names = self.datasets.keys().map(String::as_str);
        let mut names: Vec<&str> = names.filter(|name| scope.allows_dataset(name)).collect();
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
        self.idempotency.measure(&self.clock);
    }
}

impl KnownDataset {
    /// A request as limits count it.
    pub(crate) fn request<'a>(&'a self, caller: &'a Caller, events: usize, bytes: usize) -> limits::Request<'a> {
        limits::Request { caller, dataset: &self.meters, share: self.share, events, bytes }
    }
}

/// For who opens the address in a browser.
#[derive(Serialize, ToSchema)]
pub(crate) struct Index {
    service: &'static str,
    post_events: &'static str,
    content_types: Vec<&'static str>,
    /// Those that the caller may post to. Strangers are not told which there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    datasets: Option<Vec<String>>,
    /// The description of all this, OpenAPI 3.1.
    openapi: &'static str,
    /// The same as a page.
    docs: &'static str,
}

async fn index(State(gateway): State<Arc<Gateway>>, head: Parts) -> Result<Json<Index>, Refusal> {
    let datasets = match &gateway.door {
        Some(door) if !door.is_asked(&head) => None,
        _ => Some(gateway.known_datasets(&gateway.caller(&head)?.scope)),
    };
    Ok(Json(Index {
        service: "lakehose",
        post_events: "/v1/events/{dataset}",
        content_types: ACCEPTED.split(", ").collect(),
        datasets: datasets.map(|names| names.into_iter().map(str::to_owned).collect()),
        openapi: "/openapi.json",
        docs: "/docs",
    }))
}

fn panicked(payload: Box<dyn std::any::Any + Send>) -> Response {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    error!(panic = text.unwrap_or("without a text"), "request handler panicked");
    Refusal::Panicked.into_response()
}
