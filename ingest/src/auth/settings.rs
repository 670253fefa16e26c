//! The section `[auth]`.

use crate::config::ConfigError;
use serde::Deserialize;
use std::path::PathBuf;

/// Who may post: the section `[auth]`. With neither keys nor a JWKS everybody may.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// File of API keys, which `lakehose keys` writes; read again when it changes.
    pub keys: Option<PathBuf>,
    /// The text of such a file, for where no file is wanted: `LAKEHOSE_AUTH_KEYS_TEXT`. Keys of both count.
    pub keys_text: Option<String>,
    /// File of the public keys that sign JSON Web Tokens (a JWKS); read again when it changes.
    pub jwks: Option<PathBuf>,
    /// Tokens must be of this issuer (`iss`).
    pub issuer: Option<String>,
    /// Tokens must be for this audience (`aud`). Without it a token that names an audience is refused.
    pub audience: Option<String>,
    /// The claim of a token that names its device.
    pub device_claim: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            keys: None,
            keys_text: None,
            jwks: None,
            issuer: None,
            audience: None,
            device_claim: "sub".to_owned(),
        }
    }
}

impl Settings {
    /// Whether who posts must say who it is.
    pub fn is_on(&self) -> bool {
        self.keys.is_some() || self.keys_text.is_some() || self.jwks.is_some()
    }

    /// Checks what types alone cannot. The message says what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |field, problem| Err(ConfigError { field, problem });
        if self.jwks.is_none() && self.issuer.is_some() {
            return invalid("issuer", "is of tokens: say with `jwks` which keys sign them");
        }
        if self.jwks.is_none() && self.audience.is_some() {
            return invalid("audience", "is of tokens: say with `jwks` which keys sign them");
        }
        if self.device_claim.is_empty() {
            return invalid("device_claim", "must be the name of a claim, such as \"sub\"");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_tokens_without_keys_that_sign_them_are_refused() {
        let read = |json| serde_json::from_str::<Settings>(json).unwrap();
        assert_eq!((Settings::default().check(), Settings::default().is_on()), (Ok(()), false));
        assert_eq!(read(r#"{"issuer":"me"}"#).check().unwrap_err().field, "issuer");
        assert_eq!(read(r#"{"audience":"me"}"#).check().unwrap_err().field, "audience");
        assert_eq!(read(r#"{"jwks":"j","device_claim":""}"#).check().unwrap_err().field, "device_claim");
        let settings = read(r#"{"jwks":"j","issuer":"me","audience":"you"}"#);
        assert_eq!((settings.check(), settings.is_on()), (Ok(()), true));
        assert!(read(r#"{"keys_text":""}"#).is_on(), "no keys at all let nobody in");
    }
}
