//! An API key as its owner has it, `lh_<id>_<secret>`, and the hash of it that is stored.
//!
//! The secret is 256 random bits, so one SHA-256 is the right hash. Slow ones (argon2) are for passwords, of which a
//! thief of the file could else try all that people think of; of 2^256 nobody can try a noticeable part. Argon2 would
//! take 20 ms and 19 MiB of each request, which strangers could ask for as often as they like; this takes half a
//! microsecond.
//!
//! The id is no secret: it finds the hash, and names the key to people. Nothing here prints the rest by accident.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;
use subtle::{Choice, ConstantTimeEq};

/// What every key begins with, so that scanners of sources and logs can find those that leaked.
pub(crate) const PREFIX: &str = "lh_";

/// A new key, on its way to its owner.
pub struct Secret {
    id: String,
    text: String,
}

impl Secret {
    /// The key of these bytes, which must come from the system's random generator.
    pub fn from_entropy(id: [u8; 6], secret: [u8; 32]) -> Secret {
        let id = in_hex(&id);
        let text = format!("{PREFIX}{id}_{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        Secret { id, text }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn hash(&self) -> Hash {
        Hash::of(&self.text)
    }

    /// The whole of it, for its owner's eyes.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_…", self.id)
    }
}

/// The id of what may be a key.
pub(crate) fn id_of(presented: &str) -> Option<&str> {
    let (id, _) = presented.strip_prefix(PREFIX)?.split_once('_')?;
    Some(id)
}

/// What is stored of a key.
#[derive(Clone, Copy)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of the whole key, its id included.
    pub(crate) fn of(key: &str) -> Hash {
        Hash(Sha256::digest(key).into())
    }

    /// One that no key has: the place of a key that does not exist.
    pub(crate) const NOBODY: Hash = Hash([0; 32]);

    /// Compares in a time that does not depend on the bytes.
    pub(crate) fn same(&self, other: &Hash) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:…")
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    /// The message does not repeat the text: it may be a key that was pasted in the wrong place.
    fn from_str(text: &str) -> Result<Hash, Self::Err> {
        const EXPECTED: &str = "expected 64 hexadecimal digits, the SHA-256 of the whole key";
        let mut hash = [0; 32];
        if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(EXPECTED);
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| EXPECTED)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| EXPECTED)?;
        }
        Ok(Hash(hash))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn in_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to memory cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_an_id_that_finds_it_and_a_secret_of_256_bits() {
        let secret = Secret::from_entropy([0xab; 6], [0xff; 32]);
        assert_eq!(secret.reveal(), format!("lh_abababababab_{}8", "_".repeat(42)));
        assert_eq!((id_of(secret.reveal()), secret.id()), (Some("abababababab"), "abababababab"));
        for other in ["", "lh_", "lh_abc", "abc_def", "eyJhbGciOiJ9.e30.x"] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_hash_is_sha256_of_the_whole_key_and_comes_back_from_its_text() {
        // printf lh_000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA | sha256sum
        let hash = Secret::from_entropy([0; 6], [0; 32]).hash();
        let text = "6ea6d5716f0e3294f7e1bf1267c6abadc6b8dff91a8382ed724d84f0c85688d0";
        assert_eq!(hash.to_string(), text);
        assert!(bool::from(hash.same(&text.parse().unwrap())));
        assert!(!bool::from(hash.same(&Hash::NOBODY)));
        for wrong in ["", "xyz", &text[1..], &text.replace('f', "g"), &"é".repeat(32)] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_prints_a_secret_that_was_not_asked_to() {
        let secret = Secret::from_entropy([1; 6], [2; 32]);
        let (_, tail) = secret.reveal().rsplit_once('_').unwrap();
        for printed in [format!("{secret:?}"), format!("{:?}", secret.hash())] {
            assert!(!printed.contains(tail) && !printed.contains(&secret.hash().to_string()), "{printed}");
        }
        let mistake = secret.reveal().parse::<Hash>().unwrap_err();
        assert!(!mistake.contains(tail));
    }
}
