//! One line for each request, when an operator wants to know who posted what: `[ingest] audit`.
//!
//! Handlers note what they learn; the line is written when the request is over, whatever became of it. It names who
//! posted, where to, how many and what came of it: never a secret, and nothing of what the events say.

use crate::answer::Report;
use crate::caller::Caller;
use crate::correlation;
use crate::proxies::Proxies;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

/// The target of the lines, for filters: `--log warn` alone does not silence them.
pub(crate) const TARGET: &str = "audit";

/// What is known of a request so far.
pub(crate) struct Line {
    started: Instant,
    /// The address of the client, as limits count it.
    ip: Option<IpAddr>,
    /// The name of the key, the token or the certificate.
    caller: Option<Arc<str>>,
    dataset: Option<String>,
    /// Bytes of the body, once it was read.
    bytes: Option<usize>,
    /// Events in the body, once they were told apart.
    events: Option<usize>,
    accepted: usize,
    duplicates: usize,
    rejected: usize,
    status: Option<u16>,
    outcome: &'static str,
}

/// The name of the problem that a refusal is; its response carries it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem(pub(crate) &'static str);

/// Adds to the line of the request that this task handles. Nothing happens, at no cost, when no lines are wanted.
pub(crate) fn note(write: impl FnOnce(&mut Line)) {
    correlation::with_audit(write);
}

impl Line {
    pub(crate) fn new(request: &Request, proxies: &Proxies) -> Line {
        let peer = request.extensions().get().map(|ConnectInfo::<SocketAddr>(peer)| peer.ip());
        Line {
            started: Instant::now(),
            ip: peer.map(|peer| proxies.client(peer, request.headers())),
            caller: None,
            dataset: None,
            bytes: None,
            events: None,
            accepted: 0,
            duplicates: 0,
            rejected: 0,
            status: None,
            // Unless an answer is noted: the client went away, or the gateway had to stop.
            outcome: "cut-off",
        }
    }

    pub(crate) fn caller(&mut self, caller: &Caller) {
        self.ip = Some(caller.ip);
        self.caller.clone_from(&caller.name);
    }

    pub(crate) fn dataset(&mut self, name: &str) {
        self.dataset = Some(name.to_owned());
    }

    pub(crate) fn body(&mut self, bytes: usize) {
        self.bytes = Some(bytes);
    }

    pub(crate) fn events(&mut self, events: usize) {
        self.events = Some(events);
    }

    pub(crate) fn report(&mut self, report: &Report) {
        (self.accepted, self.duplicates, self.rejected) = (report.accepted, report.duplicates, report.rejected.len());
    }

    pub(crate) fn answered(&mut self, response: &Response) {
        self.status = Some(response.status().as_u16());
        self.outcome = match response.extensions().get::<Problem>() {
            Some(Problem(name)) => name,
            None => "ok",
        };
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        info!(
            target: TARGET,
            ip = self.ip.map(tracing::field::display),
            caller = self.caller.as_deref(),
            dataset = self.dataset,
            bytes = self.bytes,
            events = self.events,
            accepted = self.accepted,
            duplicates = self.duplicates,
            rejected = self.rejected,
            status = self.status,
            outcome = self.outcome,
            seconds = self.started.elapsed().as_secs_f64(),
            "request"
        );
    }
}
