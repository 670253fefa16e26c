//! JSON Web Tokens: which key of the JWKS must have signed one, and what it must say.
//!
//! - The type of a key decides its algorithm: RSA is RS256, P-256 is ES256, Ed25519 is EdDSA. What a token says of its
//!   algorithm only may agree; `none` and HS256, where a public key would be a shared secret, do not exist here.
//! - The token's `kid` chooses the key. Without `kid` it is the only key, if there is only one.
//! - `exp` is required. `nbf`, `iss` and `aud` count where they are there, the latter two are required once configured.
//! - One claim names the device, and the token is good for that device alone.

use super::failure::Reason;
use super::settings::Settings;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use serde_json::{Map, Value};
use std::sync::Arc;
use tracing::warn;

/// By how many seconds clocks may differ.
const LEEWAY: i64 = 30;
/// Longest token that is looked at.
const MAX_BYTES: usize = 8 * 1024;
/// As for events.
const MAX_DEVICE_BYTES: usize = 128;
/// Shorter RSA keys are broken, and no signature of one is accepted.
const MIN_RSA_BYTES: usize = 256;

/// The keys that sign tokens, and what tokens must say.
pub(crate) struct Tokens {
    signers: Vec<Signer>,
    device_claim: String,
}

struct Signer {
    kid: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

/// Whom a good token is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) subject: Arc<str>,
    pub(crate) device: Arc<str>,
}

impl Tokens {
    /// Reads the text of a JWKS. Keys of other kinds, which the same set may hold for others, are left out.
    pub(crate) fn parse(text: &str, settings: &Settings) -> Result<Tokens, String> {
        let set: JwkSet = serde_json::from_str(text)
            .map_err(|err| format!("line {} column {}: it is not a JSON Web Key Set", err.line(), err.column()))?;
        let mut signers: Vec<Signer> = Vec::with_capacity(set.keys.len());
        for jwk in &set.keys {
            let kid = jwk.common.key_id.clone();
            let Some((algorithm, key)) = usable(jwk) else {
                warn!(
                    kid,
                    "key of the JWKS is not used: expected RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA) to sign"
                );
                continue;
            };
            if signers.iter().any(|signer| signer.kid == kid) {
                return Err(format!("two keys have the kid {}", kid.unwrap_or_default()));
            }
            signers.push(Signer { kid, key, validation: validation(algorithm, settings) });
        }
        match signers.is_empty() {
            true => Err("it holds no key that can sign tokens: RSA of 2048 bits, P-256 or Ed25519".to_owned()),
            false => Ok(Tokens { signers, device_claim: settings.device_claim.clone() }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.signers.len()
    }

    /// The bearer of a token that is good `now`, in seconds since the epoch; else why not, and, if its signature is good,
    /// whose it is.
    pub(crate) fn verify(&self, token: &str, now: i64) -> Result<Bearer, (Reason, Option<String>)> {
        let bad = |reason| (reason, None);
        if token.len() > MAX_BYTES {
            return Err(bad(Reason::BadToken));
        }
        let header = decode_header(token).map_err(|_| bad(Reason::BadToken))?;
        if header.crit.is_some() {
            // Extensions that must be understood, and are not.
            return Err(bad(Reason::BadToken));
        }
        let signer = self.signer(header.kid.as_deref()).ok_or(bad(Reason::UnknownSigner))?;
        let decoded = decode::<Map<String, Value>>(token, &signer.key, &signer.validation);
        let claims = decoded.map_err(|err| bad(reason_of(err.kind())))?.claims;

        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let subject = text("sub").or_else(|| text(&self.device_claim));
        let known = |reason| (reason, subject.map(str::to_owned));
        let seconds = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        match (seconds("exp"), seconds("nbf"), claims.contains_key("nbf")) {
            (None, ..) | (_, None, true) => return Err(known(Reason::BadToken)),
            (Some(exp), ..) if exp <= (now - LEEWAY) as f64 => return Err(known(Reason::Expired)),
            (_, Some(nbf), _) if nbf > (now + LEEWAY) as f64 => return Err(known(Reason::NotYetValid)),
            _ => {}
        }
        let device = text(&self.device_claim).filter(|device| (1..=MAX_DEVICE_BYTES).contains(&device.len()));
        let device: Arc<str> = device.ok_or_else(|| known(Reason::NoDevice))?.into();
        Ok(Bearer { subject: subject.map_or_else(|| Arc::clone(&device), Arc::from), device })
    }

    fn signer(&self, kid: Option<&str>) -> Option<&Signer> {
        match (kid, self.signers.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(kid), signers) => signers.iter().find(|signer| signer.kid.as_deref() == Some(kid)),
        }
    }
}

/// The one algorithm of a key, and the key; `None` if it is of another kind, or for something else.
fn usable(jwk: &Jwk) -> Option<(Algorithm, DecodingKey)> {
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_this = common.key_algorithm.is_none_or(|claimed| claimed == named)
        && common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let key = DecodingKey::from_jwk(jwk).ok().filter(|_| is_for_this)?;
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } if n.len() < MIN_RSA_BYTES => None,
        _ => Some((algorithm, key)),
    }
}

/// What the library checks. The times are left to us, who know what time it is to the gateway.
fn validation(algorithm: Algorithm, settings: &Settings) -> Validation {
    let mut validation = Validation::new(algorithm);
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    let mut required = vec!["exp"];
    if let Some(issuer) = &settings.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = &settings.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn reason_of(kind: &ErrorKind) -> Reason {
    match kind {
        ErrorKind::InvalidIssuer => Reason::WrongIssuer,
        ErrorKind::InvalidAudience => Reason::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Reason::WrongIssuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Reason::WrongAudience,
        _ => Reason::BadToken,
    }
}

#[cfg(test)]
mod tests;
