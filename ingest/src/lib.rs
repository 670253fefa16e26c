//! HTTP to the log: accept or refuse quickly, and never lie about it.
//!
//! # Life of a request
//!
//! 1. [`serve`](mod@serve) takes the connection, [`tls`] may encrypt it; [`routes`] is the whole URL space on one screen.
//! 2. [`correlation`] gives it the names under which it is found again, and [`audit`] its line in the log.
//! 3. [`accept`] is the order of things for `POST /v1/events/{dataset}`. Before everything else [`auth`] asks who it is
//!    and what they may post; then what costs nothing: the dataset, the content type, the length, whether the log takes
//!    events ([`breaker`]).
//! 4. [`body`] reads the body under three bounds: its size, its time, and the bytes of all requests under way
//!    ([`pressure`]), of which lower classes of datasets leave a part to higher ones ([`priority`]). A compressed one is
//!    decompressed while it comes.
//!    A request that names itself with an `Idempotency-Key` is run once ([`idempotency`]).
//! 5. [`decode`] cuts it into the texts of single events, [`cloudevents`] translates those of that form. Now their
//!    number is known, and [`limits`] answers for the key, the address (that of the client, if [`proxies`] are trusted),
//!    the dataset and the gateway as a whole.
//! 6. [`batch`] measures each event by `lake::event` and by its device's limit. One bad event does not refuse the
//!    others; records share the bytes of the body.
//!    With `?atomic=true` it does ([`atomic`]).
//! 7. [`store`] hands them to the log. Only what it reports as durable is counted as accepted (invariant I1), and
//!    [`answer`] says per event what became of it.
//!
//! Everything else is a [`refusal`]: every way to say no, and one table from there to HTTP. [`openapi`](mod@openapi)
//! describes it all, from the same types.

mod config;
mod clock;
mod serve;
mod tls;
mod routes;
mod correlation;
mod trace_context;
mod audit;
mod accept;
pub mod auth;
mod caller;
mod proxies;
mod priority;
mod pressure;
mod breaker;
mod body;
mod idempotency;
mod decode;
mod cloudevents;
mod limits;
mod key_table;
mod batch;
mod store;
mod atomic;
mod detached;
mod spill;
mod answer;
mod condition;
mod refusal;
mod openapi;
mod docs_page;
pub mod metrics;

pub use clock::Clock;
pub use condition::Condition;
pub use config::{Config, ConfigError, Http, Limit, Limits};
pub use openapi::openapi;
pub use proxies::{ProxyHeader, TrustedProxies};
pub use routes::{Deps, router};
pub use serve::serve;
pub use spill::{Spill, SpillConfig};
pub use tls::{ClientAuth, ClientCertificate, Tls, TlsError};

/// What benchmarks measure on its own. Not part of the contract of this crate.
#[doc(hidden)]
pub mod bench {
    pub use crate::decode::{Form, frame};
}
