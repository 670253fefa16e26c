use super::*;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;
use std::sync::LazyLock;

const NOW: i64 = 1_769_860_800;

/// A private key, and the public one as a JWK.
struct Issuer {
    algorithm: Algorithm,
    private: EncodingKey,
    public: Value,
}

fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

static RSA: LazyLock<Issuer> = LazyLock::new(|| {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
    let public = Jwk::from_encoding_key(&private, Algorithm::RS256).unwrap();
    Issuer { algorithm: Algorithm::RS256, private, public: serde_json::to_value(public).unwrap() }
});

static EC: LazyLock<Issuer> = LazyLock::new(|| {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let public = json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)});
    Issuer { algorithm: Algorithm::ES256, private: EncodingKey::from_ec_der(pair.serialized_der()), public }
});

static ED: LazyLock<Issuer> = LazyLock::new(|| {
    let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let public = json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key_raw())});
    Issuer { algorithm: Algorithm::EdDSA, private: EncodingKey::from_ed_der(pair.serialized_der()), public }
});

impl Issuer {
    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = self.public.clone();
        jwk["kid"] = kid.into();
        jwk
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.private).unwrap()
    }
}

fn all() -> [(&'static str, &'static Issuer); 3] {
    [("rsa", &*RSA), ("ec", &*EC), ("ed", &*ED)]
}

fn tokens(jwks: &[Value], settings: &Settings) -> Tokens {
    Tokens::parse(&json!({"keys": jwks}).to_string(), settings).unwrap()
}

fn all_tokens() -> Tokens {
    tokens(&all().map(|(kid, issuer)| issuer.jwk(kid)), &Settings::default())
}

fn good() -> Value {
    json!({"sub": "sensor-1", "exp": NOW + 60})
}

fn with(claim: &str, value: Value) -> Value {
    let mut claims = good();
    claims[claim] = value;
    claims
}

fn why(tokens: &Tokens, token: &str) -> &'static str {
    tokens.verify(token, NOW).unwrap_err().0.as_str()
}

#[test]
fn each_kind_of_key_signs_with_its_algorithm_and_its_kid_finds_it() {
    let tokens = all_tokens();
    for (kid, issuer) in all() {
        let bearer = tokens.verify(&issuer.sign(Some(kid), &good()), NOW).unwrap();
        assert_eq!((&*bearer.device, &*bearer.subject), ("sensor-1", "sensor-1"));
        for (other, _) in all().into_iter().filter(|(other, _)| *other != kid) {
            assert_eq!(why(&tokens, &issuer.sign(Some(other), &good())), "bad_token", "{kid} signed as {other}");
        }
        assert_eq!(why(&tokens, &issuer.sign(Some("x"), &good())), "unknown_signer");
        assert_eq!(why(&tokens, &issuer.sign(None, &good())), "unknown_signer", "there are three");
        let alone = super::tests::tokens(std::slice::from_ref(&issuer.public), &Settings::default());
        assert!(alone.verify(&issuer.sign(None, &good()), NOW).is_ok(), "there is one");
    }
}

#[test]
fn what_a_token_says_of_its_algorithm_decides_nothing() {
    let tokens = all_tokens();
    // Signed with what everybody can read as if it were a shared secret.
    let public = RSA.public["n"].as_str().unwrap();
    let header = Header { kid: Some("rsa".into()), ..Header::new(Algorithm::HS256) };
    for secret in [public.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(public).unwrap(), b""] {
        let forged = encode(&header, &good(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(why(&tokens, &forged), "bad_token");
    }
    for algorithm in [Algorithm::RS512, Algorithm::PS256] {
        let header = Header { kid: Some("rsa".into()), ..Header::new(algorithm) };
        assert_eq!(why(&tokens, &encode(&header, &good(), &RSA.private).unwrap()), "bad_token");
    }
    let claims = base64(good().to_string().as_bytes());
    for header in
        [r#"{"alg":"none","kid":"rsa"}"#, r#"{"alg":"None"}"#, r#"{"kid":"rsa"}"#, r#"{"alg":"RS256","kid":"rsa"}"#]
    {
        assert_eq!(why(&tokens, &format!("{}.{claims}.", base64(header.as_bytes()))), "bad_token", "{header}");
    }
    let header = Header { kid: Some("ec".into()), crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::ES256) };
    assert_eq!(why(&tokens, &encode(&header, &good(), &EC.private).unwrap()), "bad_token");
}

#[test]
fn a_token_that_was_changed_is_not_the_one_that_was_signed() {
    let tokens = all_tokens();
    for (kid, issuer) in all() {
        let token = issuer.sign(Some(kid), &good());
        let parts: Vec<&str> = token.split('.').collect();
        let claims = base64(with("sub", "sensor-2".into()).to_string().as_bytes());
        assert_eq!(why(&tokens, &format!("{}.{claims}.{}", parts[0], parts[2])), "bad_token");
        assert_eq!(why(&tokens, &format!("{}.{}.{}", parts[0], parts[1], &parts[2][4..])), "bad_token");
    }
    for garbage in ["", ".", "..", "...", "a.b.c", &"x".repeat(MAX_BYTES + 1)] {
        assert_eq!(why(&tokens, garbage), "bad_token");
    }
}

#[test]
fn a_token_is_good_from_nbf_to_exp_and_clocks_may_differ_by_half_a_minute() {
    let tokens = all_tokens();
    let verdict = |claims: Value| match tokens.verify(&ED.sign(Some("ed"), &claims), NOW) {
        Ok(_) => "good",
        Err((reason, _)) => reason.as_str(),
    };
    assert_eq!(verdict(with("exp", json!(NOW - LEEWAY + 1))), "good");
    assert_eq!(verdict(with("exp", json!(NOW - LEEWAY))), "expired");
    assert_eq!(verdict(with("exp", json!(1.5e9))), "expired");
    assert_eq!(verdict(with("nbf", json!(NOW + LEEWAY))), "good");
    assert_eq!(verdict(with("nbf", json!(NOW + LEEWAY + 1))), "not_yet_valid");
    for exp in [json!(null), json!("2999-01-01"), json!([]), json!({})] {
        assert_eq!(verdict(with("exp", exp)), "bad_token");
    }
    assert_eq!(verdict(with("nbf", json!("tomorrow"))), "bad_token");
    assert_eq!(verdict(json!({"sub": "sensor-1"})), "bad_token", "it would be good for ever");
    let expired = tokens.verify(&ED.sign(Some("ed"), &with("exp", json!(1))), NOW).unwrap_err();
    assert_eq!(expired, (Reason::Expired, Some("sensor-1".to_owned())), "an operator is told whose");
}

#[test]
fn issuer_and_audience_count_once_they_are_configured() {
    let settings = Settings { issuer: Some("me".into()), audience: Some("you".into()), ..Settings::default() };
    let strict = tokens(&[EC.jwk("ec")], &settings);
    let verdict = |tokens: &Tokens, iss: Value, aud: Value| {
        let mut claims = good();
        (claims["iss"], claims["aud"]) = (iss, aud);
        tokens.verify(&EC.sign(Some("ec"), &claims), NOW).map_or_else(|(reason, _)| reason.as_str(), |_| "good")
    };
    assert_eq!(verdict(&strict, json!("me"), json!("you")), "good");
    assert_eq!(verdict(&strict, json!("me"), json!(["they", "you"])), "good");
    assert_eq!(verdict(&strict, json!("them"), json!("you")), "wrong_issuer");
    assert_eq!(verdict(&strict, json!(null), json!("you")), "wrong_issuer");
    assert_eq!(verdict(&strict, json!("me"), json!("they")), "wrong_audience");
    assert_eq!(verdict(&strict, json!("me"), json!(null)), "wrong_audience");
    let lax = all_tokens();
    assert_eq!(verdict(&lax, json!("anybody"), json!(null)), "good");
    assert_eq!(verdict(&lax, json!("anybody"), json!("they")), "wrong_audience", "it was made for somebody else");
}

#[test]
fn the_configured_claim_names_the_device() {
    let settings = Settings { device_claim: "device".into(), ..Settings::default() };
    let tokens = tokens(&[EC.jwk("ec")], &settings);
    let bearer = |device: Value| tokens.verify(&EC.sign(Some("ec"), &with("device", device)), NOW);
    let good = bearer(json!("truck-7")).unwrap();
    assert_eq!((&*good.device, &*good.subject), ("truck-7", "sensor-1"));
    for none in [json!(null), json!(7), json!(""), json!(["truck-7"]), json!("x".repeat(129))] {
        assert_eq!(bearer(none.clone()).unwrap_err().0.as_str(), "no_device", "{none}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_left_out_and_a_set_without_any_is_refused() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let (x, y) = p384.public_key_raw()[1..].split_at(48);
    let altered = |issuer: &Issuer, member: &str, value: &str| {
        let mut jwk = issuer.jwk("k");
        jwk[member] = value.into();
        jwk
    };
    let unusable = [
        json!({"kty": "EC", "crv": "P-384", "x": base64(x), "y": base64(y), "kid": "k"}),
        json!({"kty": "oct", "k": base64(b"a shared secret of some length, 32+"), "kid": "k"}),
        json!({"kty": "AKP", "pub": "x", "kid": "k"}),
        altered(&EC, "use", "enc"),
        altered(&RSA, "alg", "RS512"),
        altered(&RSA, "n", &base64(&[0xff; 128])),
        altered(&ED, "alg", "ES256"),
    ];
    for jwk in &unusable {
        let text = json!({"keys": [jwk]}).to_string();
        assert!(Tokens::parse(&text, &Settings::default()).err().unwrap().contains("no key that can sign"), "{jwk}");
        assert_eq!(tokens(&[jwk.clone(), ED.jwk("ed")], &Settings::default()).len(), 1);
    }
    let twice = json!({"keys": [ED.jwk("k"), EC.jwk("k")]}).to_string();
    assert_eq!(Tokens::parse(&twice, &Settings::default()).err().unwrap(), "two keys have the kid k");
    for text in ["", "{}", "[]", r#"{"keys":7}"#, r#"{"keys":[]}"#] {
        assert!(Tokens::parse(text, &Settings::default()).is_err(), "{text}");
    }
}
