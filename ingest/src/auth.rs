//! Decides who a request is from, and what it may post: API keys and JSON Web Tokens.
//!
//! It comes before everything else: who has no key learns nothing, not even which datasets there are. To the caller all
//! failures look alike (401); the operator's log and metrics have the reason, never what was sent. What may be a guess
//! slows its address down ([`guessers`]).
//!
//! Read in the order of the `mod` lines: what is configured, what a request presents, a key as its owner has it, the keys
//! as they are stored and what they allow, tokens, the files they are in, how failures are told and slowed, and the door
//! where all of it meets.
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
mod trusted;
mod guessers;
mod door;

pub(crate) use door::{Denied, Door};
pub use scope::{Devices, Scope};
pub use secret::{Hash, Secret};
pub use settings::Settings;
pub use watched::Unusable;

use crate::settled;
use keys::Keys;
use std::path::PathBuf;
use std::sync::Arc;
use tokens::Tokens;
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
        let mut tick = tokio::time::interval(settled::EVERY);
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

fn open_tokens(path: PathBuf, settings: Settings) -> Result<Watched<Tokens>, Unusable> {
    Watched::open("jwks", Some(path), Box::new(move |text| Tokens::parse(text, &settings)))
}
