//! HTTP to the log: accept or refuse quickly, and never lie about it.
//!
//! # Life of a request
//!
//! 1. [`serve`](mod@serve) takes the connection, [`tls`] may encrypt it; [`routes`] is the whole URL space on one screen.
//! 2. [`correlation`] gives it the names under which it is found again, its own or those of a [`trace_context`], and
//!    [`audit`] its line in the log.
//! 3. [`accept`] is the order of things for `POST /v1/events/{dataset}`. Before everything else [`auth`] asks who it is
//!    and what they may post ([`caller`]), from which address ([`proxies`], if they are trusted); then what costs nothing:
//!    the dataset, the query, the form, the length, whether the log takes events ([`breaker`]).
//! 4. [`body`] reads the body under three bounds: its size, its time, and the bytes of all requests under way
//!    ([`pressure`]), of which lower classes of datasets leave a part to higher ones ([`priority`]). A compressed one is
//!    decompressed while it comes.
//! 5. A request that names itself with an `Idempotency-Key` is run once, and to its end ([`idempotency`]).
//! 6. [`cloudevents`] translates bodies of that form, [`decode`] cuts the others into the texts of single events. Now
//!    their number is known, and [`limits`] answers for the key, the address, the dataset and the gateway as a whole,
//!    from tables of fixed size ([`key_table`]).
//! 7. [`batch`] measures each event by `lake::event`, by what the caller may post, and by its device's limit. One bad event
//!    does not refuse the others, but with `?atomic=true` it does ([`atomic`]). Records share the bytes of the body.
//! 8. [`store`] hands them to the log, in an append that goes on when its request ends early ([`detached`]); where there
//!    is a queue on disk, to that one while the log does not take them ([`spill`]). Only what is reported as durable is
//!    counted as accepted (invariant I1), and [`answer`] says per event what became of it.
//!
//! Everything else is a [`refusal`]: every way to say no, and one table from there to HTTP. [`openapi`](mod@openapi)
//! describes it all, from the same types, and [`docs_page`] shows it to people. Operators see the gateway's
//! [`condition`] and its [`metrics`].

mod config;
mod clock;
mod settled;
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
mod breaker;
mod body;
mod pressure;
mod priority;
mod idempotency;
mod cloudevents;
mod decode;
mod limits;
mod key_table;
mod batch;
mod atomic;
mod store;
mod detached;
mod spill;
mod answer;
mod refusal;
mod openapi;
mod docs_page;
mod condition;
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
