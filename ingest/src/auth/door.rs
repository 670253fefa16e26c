//! Who is at the door of a gateway: looks at credentials, and remembers of whom they were not good.

use super::Auth;
use super::credentials::Credentials;
use super::failure::{FailureLog, Reason};
use super::guessers::Guessers;
use super::scope::{Devices, Scope};
use super::tokens::Bearer;
use crate::caller::Caller;
use crate::clock::Clock;
use axum::http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// Who has shown good credentials.
struct Known {
    name: Arc<str>,
    scope: Scope,
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

    /// Who the stranger is that has sent this head, and what they may.
    pub(crate) fn identify(&self, stranger: Caller, head: &Parts) -> Result<Caller, Denied> {
        let ip = stranger.ip;
        let credentials = Credentials::of(&head.headers);
        if credentials != Credentials::Missing {
            let looked_at = self.guessers.check(ip, credentials.presented());
            looked_at.map_err(|retry_after| Denied::Slowed { retry_after })?;
        }
        let Known { name, scope } = match credentials {
            Credentials::Missing => self.refuse(ip, Reason::Missing, None),
            Credentials::Unreadable => self.refuse(ip, Reason::Unreadable, None),
            Credentials::Key(key) => self.owner(ip, key),
            Credentials::Token(token) => self.bearer(ip, token),
        }?;
        self.guessers.good(ip, credentials.presented());
        Ok(Caller { name: Some(name), scope, ..stranger })
    }

    fn owner(&self, ip: IpAddr, presented: &str) -> Result<Known, Denied> {
        let Some(keys) = &self.auth.keys else { return self.refuse(ip, Reason::UnknownKey, None) };
        match keys.current().find(presented, self.clock.micros()) {
            Ok(key) => Ok(Known { name: Arc::clone(&key.name), scope: key.scope.clone() }),
            Err((reason, key)) => self.refuse(ip, reason, key.map(|key| (&*key.name, key.id.as_str()))),
        }
    }

    fn bearer(&self, ip: IpAddr, token: &str) -> Result<Known, Denied> {
        let Some(tokens) = &self.auth.tokens else { return self.refuse(ip, Reason::UnknownKey, None) };
        match tokens.current().verify(token, self.clock.micros().div_euclid(1_000_000)) {
            Ok(Bearer { subject, device }) => {
                let scope = Scope { datasets: None, devices: Devices::Only(device) };
                // No key is called so: a token whose subject is the name of a key is still somebody else.
                Ok(Known { name: format!("token:{subject}").into(), scope })
            }
            Err((reason, subject)) => self.refuse(ip, reason, subject.as_deref().map(|subject| (subject, "token"))),
        }
    }

    fn refuse(&self, ip: IpAddr, reason: Reason, key: Option<(&str, &str)>) -> Result<Known, Denied> {
        if reason.may_be_a_guess() {
            self.guessers.wrong(ip);
        }
        self.failures.tell(ip, reason, key);
        Err(Denied::Unauthenticated { presented: reason != Reason::Missing })
    }
}
