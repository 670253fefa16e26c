//! Stands between processes and the S3 server and does what networks and stores do: refuses, loses answers, keeps silent
//! for a minute, says 412 of an object that it has just stored.
//!
//! What it forwards it forwards as it came, `Host` included, which the signature covers. A request that has arrived is
//! carried through even if its sender gives up meanwhile: that is what makes outcomes unknown.

use crate::support::http;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A fragment, a segment, or a part of one.
    PutFile,
    /// A commit, a checkpoint, a checksum.
    PutLog,
    Get,
    List,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store never sees it; this status is the answer.
    Refuse(u16),
    /// The store carries it out; this status is the answer. 412 after a put is what a store says of one's own object
    /// when it was sent twice on the way.
    CarryOutThenAnswer(u16),
    /// The store carries it out, and the connection ends without an answer.
    CarryOutThenCut,
    /// The store carries it out, and the answer takes this long: longer than the client waits, if it is long.
    CarryOutThenStall(Duration),
    /// The request takes this long to reach the store. Its sender may have sent another meanwhile.
    Stall(Duration),
}

/// A fault that meets a share of the requests of one kind, for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disturbance {
    pub operation: Operation,
    pub fault: Fault,
    pub share: f64,
    pub lasts: Duration,
}

/// A running proxy. Give [`StoreProxy::address`] to processes as `AWS_ENDPOINT_URL`.
pub struct StoreProxy {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    store: String,
    client: reqwest::Client,
    weather: Mutex<Weather>,
}

struct Weather {
    chance: StdRng,
    disturbances: Vec<(Disturbance, Instant)>,
    met: u64,
}

impl StoreProxy {
    /// Stands before `store`, the address of an S3 server.
    pub fn start(store: &str, seed: u64) -> StoreProxy {
        let weather = Weather { chance: StdRng::seed_from_u64(seed), disturbances: Vec::new(), met: 0 };
        let redirects = reqwest::redirect::Policy::none();
        let client = reqwest::Client::builder().no_proxy().redirect(redirects).build().unwrap();
        let shared = Arc::new(Shared { store: store.to_owned(), client, weather: Mutex::new(weather) });
        let listener = http::RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(pass).with_state(Arc::clone(&shared));
        http::RUNTIME.spawn(async move { axum::serve(listener, router).await });
        StoreProxy { address, shared }
    }

    pub fn disturb(&self, disturbance: Disturbance) {
        let until = Instant::now() + disturbance.lasts;
        self.shared.weather.lock().unwrap().disturbances.push((disturbance, until));
    }

    /// From now on it only forwards. Returns how many requests met a fault.
    pub fn heal(&self) -> u64 {
        let mut weather = self.shared.weather.lock().unwrap();
        weather.disturbances.clear();
        weather.met
    }
}

impl Weather {
    fn draw(&mut self, operation: Operation) -> Option<Fault> {
        let now = Instant::now();
        self.disturbances.retain(|(_, until)| *until > now);
        let chance = &mut self.chance;
        let mut meant = self.disturbances.iter().map(|(d, _)| d).filter(|d| d.operation == operation);
        let fault = meant.find(|disturbance| chance.random_bool(disturbance.share))?.fault;
        self.met += 1;
        Some(fault)
    }
}

impl Operation {
    /// `None` for what is never disturbed: deletes, and the two ends of a multipart upload.
    fn of(request: &Request) -> Option<Operation> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        match *request.method() {
            Method::PUT if path.contains("/_delta_log/") => Some(Operation::PutLog),
            Method::PUT => Some(Operation::PutFile),
            Method::GET if query.contains("list-type=2") => Some(Operation::List),
            Method::GET | Method::HEAD => Some(Operation::Get),
            _ => None,
        }
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let fault = Operation::of(&request).and_then(|operation| shared.weather.lock().unwrap().draw(operation));
    let delay = match fault {
        Some(Fault::Refuse(status)) => return answer(status),
        Some(Fault::Stall(delay)) => delay,
        _ => Duration::ZERO,
    };
    // A task of its own: the sender may hang up, and then this function ends where it waits.
    let forwarded = tokio::spawn(async move {
        let received = receive(request).await?;
        tokio::time::sleep(delay).await;
        shared.forward(received).await
    });
    let answered = forwarded.await.unwrap().unwrap_or_else(|why| (StatusCode::BAD_GATEWAY, why).into_response());
    match fault {
        Some(Fault::CarryOutThenAnswer(status)) => answer(status),
        // Ends this connection's task and with it the connection, without a word of a panic.
        Some(Fault::CarryOutThenCut) => std::panic::resume_unwind(Box::new("cut")),
        Some(Fault::CarryOutThenStall(delay)) => {
            tokio::time::sleep(delay).await;
            answered
        }
        _ => answered,
    }
}

type Received = (axum::http::request::Parts, Bytes);

async fn receive(request: Request) -> Result<Received, String> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|err| err.to_string())?;
    Ok((head, body))
}

impl Shared {
    async fn forward(&self, (head, body): Received) -> Result<Response, String> {
        let place = head.uri.path_and_query().map_or("/", |place| place.as_str());
        let url = format!("{}{place}", self.store);
        let sent = self.client.request(head.method, url).headers(head.headers).body(body).send().await;
        let answer = sent.map_err(|err| format!("{err:?}"))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|err| format!("{err:?}"))?;
        let mut response = (status, Body::from(body)).into_response();
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// An error as S3 words it.
fn answer(status: u16) -> Response {
    let code = match status {
        403 => "AccessDenied",
        412 => "PreconditionFailed",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let status = StatusCode::from_u16(status).unwrap();
    (status, format!("<Error><Code>{code}</Code><Message>injected</Message></Error>")).into_response()
}
