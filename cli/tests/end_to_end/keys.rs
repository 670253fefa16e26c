//! Keys, from the first one to the last post of a revoked one, while the gateway runs.

use crate::support::config::Config;
use crate::support::http::{self, Answer, RUNTIME};
use crate::support::process::{Lakehose, Place};
use crate::support::{PATIENCE, wait_for};
use std::time::{Duration, Instant};

/// Makes a key as an operator does, and answers it.
#[track_caller]
fn create(place: &Place, args: &[&str]) -> String {
    let (code, said) = place.run(&[&["keys", "create"], args].concat());
    assert_eq!(code, Some(0), "{said}");
    let key = said.lines().next().unwrap().to_owned();
    assert!(key.starts_with("lh_") && key.len() == 59, "{said}");
    key
}

fn post(up: &Lakehose, key: Option<&str>, body: &str) -> Answer {
    let request = http::client().post(up.gateway()).header("content-type", "application/json").body(body.to_owned());
    let request = key.into_iter().fold(request, |request, key| request.bearer_auth(key));
    RUNTIME.block_on(async { Answer::read(request.send().await.unwrap()).await.unwrap() })
}

fn status(up: &Lakehose, key: &str, body: &str) -> u16 {
    post(up, Some(key), body).status
}

/// How long it takes until a post is answered so.
#[track_caller]
fn until(up: &Lakehose, key: &str, body: &str, expected: u16) -> Duration {
    let begun = Instant::now();
    wait_for("another answer", Duration::from_secs(10), || (status(up, key, body) == expected).then_some(()));
    begun.elapsed()
}

#[test]
fn keys_are_made_and_revoked_while_the_gateway_runs() {
    const EVENT: &str = r#"{"device_id": "site-1/a"}"#;
    let place = Place::new(Config { more: "[auth]\nkeys = 'keys.toml'", ..Config::new("keys") });
    let first = create(&place, &["first"]);
    let up = place.start("up");
    wait_for("ready", PATIENCE, || up.is_ready().then_some(()));
    let stranger = post(&up, None, EVENT);
    assert_eq!(stranger.status, 401);
    assert!(!stranger.body.contains(&place.config.dataset), "{stranger:?}");
    assert_eq!(status(&up, &first, EVENT), 202);

    let dataset = place.config.dataset.as_str();
    let site = create(&place, &["site-1", "--dataset", dataset, "--device-prefix", "site-1/", "--expires", "90d"]);
    until(&up, &site, EVENT, 202);
    let other = post(&up, Some(&site), r#"[{"device_id": "site-1/b"}, {"device_id": "site-2/a"}]"#).json();
    assert_eq!((&other["accepted"], &other["rejected"][0]["reason"]), (&1.into(), &"device_not_allowed".into()));
    assert_eq!(status(&up, &site, r#"{"device_id": "site-2/a"}"#), 403);

    // A file that is broken meanwhile changes nothing.
    let file = place.path().join("keys.toml");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "[[keys]]\nid = 'x'\n").unwrap();
    wait_for("the complaint", PATIENCE, || up.has_logged("the old ones stay").then_some(()));
    assert_eq!((status(&up, &first, EVENT), up.metric("lakehose_ingest_credentials_stale")), (202, 1.0));
    std::fs::write(&file, whole).unwrap();
    wait_for("the whole file", PATIENCE, || (up.metric("lakehose_ingest_credentials_stale") == 0.0).then_some(()));

    let (code, said) = place.run(&["keys", "revoke", "site-1"]);
    assert!(code == Some(0) && said.contains("revoked the key site-1"), "{said}");
    let took = until(&up, &site, EVENT, 401);
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(status(&up, &first, EVENT), 202, "the other key stays good");
    assert!(up.has_logged("authentication failed") && up.has_logged("site-1"), "{}", up.log_tail());
    assert!(up.metric("lakehose_ingest_authentication_failures_total") >= 2.0);

    // Guesses are refused, then not even looked at; the key that was good here stays so.
    let mut guesses = (100..200).map(|n| status(&up, &format!("lh_000000000{n}_guess"), EVENT));
    assert!(guesses.next() == Some(401) && guesses.any(|status| status == 429), "a hundred guesses were looked at");
    assert_eq!(status(&up, &first, EVENT), 202);

    let (_, listed) = place.run(&["keys", "ls", "--json"]);
    assert!(listed.contains(r#""state":"revoked""#) && listed.contains(r#""state":"active""#), "{listed}");
    for secret in [&first, &site].map(|key| key.rsplit_once('_').unwrap().1) {
        assert!(!up.has_logged(secret) && !listed.contains(secret), "a secret was told");
        assert!(!std::fs::read_to_string(&file).unwrap().contains(secret), "a secret was stored");
    }
    assert!(!up.has_logged("_guess"), "what strangers send is not logged");
    up.stop();
}
