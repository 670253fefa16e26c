//! Decides who a request is from, and what it may post: API keys and JSON Web Tokens.
//!
//! It comes before everything else: who has no key learns nothing, not even which datasets there are. To the caller all
//! failures look alike (401); the operator's log and metrics have the reason, never what was sent. What may be a guess
//! slows its address down ([`guessers`]).
//!
//! Read in the order of the `mod` lines: what is configured, what a request presents, a key as its owner has it, the keys
//! as they are stored and what they allow, tokens, the files they are in, and how failures are told and slowed.
//!
//! Without keys and tokens there is no [`Auth`], and nothing is asked of anybody.

mod settings;
mod credentials;
mod secret;
mod scope;
pub mod keys;
mod tokens;
mod watched;
mod failure;
mod guessers;

pub use scope::{Devices, Scope};
pub use secret::{Hash, Secret};
pub use settings::Settings;
pub use watched::Unusable;

use crate::caller::Caller;
use crate::clock::Clock;
use axum::http::request::Parts;
use credentials::Credentials;
use failure::{FailureLog, Reason};
use guessers::Guessers;
use keys::Keys;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokens::{Bearer, Tokens};
use tracing::{info, warn};
use watched::Watched;

/// Who may post, as files say that may change at any time.
pub struct Auth {
    keys: Option<Arc<Watched<Keys>>>,
    tokens: Option<Arc<Watched<Tokens>>>,
}

impl Auth {
    /// Reads the files; `None` if nothing is configured, and everybody may post.
    pub fn open(settings: &Settings) -> Result<Option<Auth>, Unusable> {
        if !settings.is_on() {
            return Ok(None);
        }
        let keys = match settings.keys.is_some() || settings.keys_text.is_some() {
            true => Some(Arc::new(open_keys(settings)?)),
            false => None,
        };
        let tokens = match &settings.jwks {
            Some(path) => Some(Arc::new(open_tokens(path.clone(), settings.clone())?)),
            None => None,
        };
        let auth = Auth { keys, tokens };
        info!(keys = auth.keys(), signers = auth.signers(), "who posts must say who it is");
        if auth.keys() + auth.signers() == 0 {
            warn!("there is no key yet, so nobody may post: make one with `lakehose keys create`");
        }
        Ok(Some(auth))
    }

    /// How many keys there are, good or not.
    pub fn keys(&self) -> usize {
        self.keys.as_ref().map_or(0, |keys| keys.current().len())
    }

    /// How many keys there are that tokens may be signed with.
    pub fn signers(&self) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| tokens.current().len())
    }

    /// Reads the files again whenever they change; never ends.
    pub(crate) async fn watch(&self) {
        let mut tick = tokio::time::interval(watched::EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (keys, tokens) = (self.keys.clone(), self.tokens.clone());
            let looked = tokio::task::spawn_blocking(move || {
                keys.iter().for_each(|keys| keys.look());
                tokens.iter().for_each(|tokens| tokens.look());
            });
            // It does not panic, and if it did the next look would be no worse.
            let _ = looked.await;
        }
    }
}

fn open_keys(settings: &Settings) -> Result<Watched<Keys>, Unusable> {
    let fixed = keys::parse(settings.keys_text.as_deref().unwrap_or_default());
    let fixed = fixed.map_err(|err| Unusable { path: "auth.keys_text".into(), problem: err.to_string() })?;
    let parse = move |text: &str| {
        let mut all = keys::parse(text).map_err(|err| err.to_string())?;
        all.extend(fixed.iter().cloned());
        Keys::of(all).map_err(|err| err.to_string())
    };
    Watched::open("keys", settings.keys.clone(), Box::new(parse))
}

fn open_tokens(path: std::path::PathBuf, settings: Settings) -> Result<Watched<Tokens>, Unusable> {
    Watched::open("jwks", Some(path), Box::new(move |text| Tokens::parse(text, &settings)))
}

/// Why a caller is not let in, as far as the caller may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    Unauthenticated {
        presented: bool,
    },
    /// Too many guesses came from this address.
    Slowed {
        retry_after: Duration,
    },
}

/// The door of one gateway: what it remembers of who was refused.
pub(crate) struct Door {
    auth: Arc<Auth>,
    guessers: Guessers,
    failures: FailureLog,
    clock: Clock,
}

impl Door {
    pub(crate) fn new(auth: Arc<Auth>, clock: &Clock) -> Door {
        Door { auth, guessers: Guessers::new(clock), failures: FailureLog::new(clock), clock: clock.clone() }
    }

    pub(crate) fn auth(&self) -> &Arc<Auth> {
        &self.auth
    }

    /// Whether a request says at all who it is from.
    pub(crate) fn is_asked(&self, head: &Parts) -> bool {
        Credentials::of(&head.headers) != Credentials::Missing
    }

    /// Who has sent this head from this address, and what they may.
    pub(crate) fn caller(&self, ip: IpAddr, head: &Parts) -> Result<Caller, Denied> {
        let credentials = Credentials::of(&head.headers);
        if credentials != Credentials::Missing {
            let looked_at = self.guessers.check(ip, credentials.presented());
            looked_at.map_err(|retry_after| Denied::Slowed { retry_after })?;
        }
        let caller = match credentials {
            Credentials::Missing => self.refuse(ip, Reason::Missing, None),
            Credentials::Unreadable => self.refuse(ip, Reason::Unreadable, None),
            Credentials::Key(key) => self.owner(ip, key),
            Credentials::Token(token) => self.bearer(ip, token),
        };
        if caller.is_ok() {
            self.guessers.good(ip, credentials.presented());
        }
        caller
    }

    fn owner(&self, ip: IpAddr, presented: &str) -> Result<Caller, Denied> {
        let Some(keys) = &self.auth.keys else { return self.refuse(ip, Reason::UnknownKey, None) };
        match keys.current().find(presented, self.clock.micros()) {
            Ok(key) => Ok(Caller { ip, name: Some(Arc::clone(&key.name)), scope: key.scope.clone() }),
            Err((reason, key)) => self.refuse(ip, reason, key.map(|key| (&*key.name, key.id.as_str()))),
        }
    }

    fn bearer(&self, ip: IpAddr, token: &str) -> Result<Caller, Denied> {
        let Some(tokens) = &self.auth.tokens else { return self.refuse(ip, Reason::UnknownKey, None) };
        match tokens.current().verify(token, self.clock.micros().div_euclid(1_000_000)) {
            Ok(Bearer { subject, device }) => {
                let scope = Scope { datasets: None, devices: Devices::Only(device) };
                Ok(Caller { ip, name: Some(subject), scope })
            }
            Err((reason, subject)) => self.refuse(ip, reason, subject.as_deref().map(|subject| (subject, "token"))),
        }
    }

    fn refuse(&self, ip: IpAddr, reason: Reason, key: Option<(&str, &str)>) -> Result<Caller, Denied> {
        if reason.may_be_a_guess() {
            self.guessers.wrong(ip);
        }
        self.failures.tell(ip, reason, key);
        Err(Denied::Unauthenticated { presented: reason != Reason::Missing })
    }
}
