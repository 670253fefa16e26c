use super::*;
use crate::auth::secret::Secret;

const SECOND: i64 = 1_000_000;

fn secret(n: u8) -> Secret {
    Secret::from_entropy([n; 6], [n; 32])
}

fn entry(secret: &Secret, more: &str) -> String {
    format!("[[keys]]\nid = '{}'\nname = 'k'\nsha256 = '{}'\n{more}\n", secret.id(), secret.hash())
}

fn keys(text: &str) -> Keys {
    Keys::of(parse(text).unwrap()).unwrap()
}

#[test]
fn a_key_is_found_by_its_whole_text_and_by_nothing_else() {
    let (known, other) = (secret(1), secret(2));
    let keys = keys(&entry(&known, ""));
    assert_eq!(&*keys.find(known.reveal(), 0).unwrap().name, "k");
    let why = |presented: &str| keys.find(presented, 0).unwrap_err().0;
    assert_eq!(why(other.reveal()), Reason::UnknownKey);
    let wrong = format!("lh_{}_{}", known.id(), other.reveal().rsplit_once('_').unwrap().1);
    assert_eq!(why(&wrong), Reason::WrongSecret);
    let (_, named) = keys.find(&wrong, 0).unwrap_err();
    assert_eq!(named.unwrap().id, known.id(), "an operator is told whose secret was wrong");
    for stranger in ["", "lh_", known.id(), &format!("lh_{}_", known.id()), &format!("{} ", known.reveal())] {
        assert!(keys.find(stranger, 0).is_err(), "{stranger}");
    }
    assert_eq!(why(&format!("{}{}", known.reveal(), "x".repeat(MAX_BYTES))), Reason::UnknownKey);
}

#[test]
fn an_id_that_nobody_has_is_compared_too_and_never_let_in() {
    // Even with the hash that unknown ids are compared with stored as a key's, no text is that key.
    let text = format!("[[keys]]\nid = 'a'\nname = 'k'\nsha256 = '{}'\n", Hash::NOBODY);
    let keys = keys(&text);
    assert_eq!(keys.find("lh_a_", 0).unwrap_err().0, Reason::WrongSecret);
    assert_eq!(keys.find("lh_b_", 0).unwrap_err().0, Reason::UnknownKey);
}

#[test]
fn a_key_is_good_until_the_moment_it_expires_or_is_revoked() {
    let secret = secret(1);
    let expiring = keys(&entry(&secret, "expires = '1970-01-01T00:00:10Z'"));
    assert!(expiring.find(secret.reveal(), 10 * SECOND - 1).is_ok());
    assert_eq!(expiring.find(secret.reveal(), 10 * SECOND).unwrap_err().0, Reason::Expired);
    let revoked = keys(&entry(&secret, "expires = 2999-01-01T00:00:10Z\nrevoked = '1970-01-01T00:00:10Z'"));
    assert_eq!(revoked.find(secret.reveal(), 0).unwrap_err().0, Reason::Revoked, "whatever the clock says");
}

#[test]
fn scopes_are_read() {
    let (a, b, c) = (secret(1), secret(2), secret(3));
    let text = [
        entry(&a, "datasets = ['x', 'y']\ndevice_prefix = 'site-'"),
        entry(&b, "device = 'sensor-1'"),
        entry(&c, "datasets = []"),
    ];
    let scopes: Vec<Scope> = parse(&text.concat()).unwrap().into_iter().map(|key| key.scope).collect();
    let names = |names: &[&str]| Some(names.iter().map(|name| name.to_string()).collect());
    assert_eq!(scopes[0], Scope { datasets: names(&["x", "y"]), devices: Devices::Prefix("site-".into()) });
    assert_eq!(scopes[1], Scope { datasets: None, devices: Devices::Only("sensor-1".into()) });
    assert_eq!(scopes[2], Scope { datasets: names(&[]), devices: Devices::Any });
}

#[test]
fn a_mistake_refuses_the_whole_file_and_names_the_line() {
    let good = entry(&secret(1), "");
    let field = |more: &str| format!("{good}\n{}", entry(&secret(2), more));
    for (text, line, words) in [
        (field("dataset = 'x'"), 11, "dataset"),
        (field("expires = 'soon'"), 11, "2026-11-22T08:00:00Z"),
        (field("expires = 2026-11-22"), 11, "2026-11-22T08:00:00Z"),
        (field("device = 'a'\ndevice_prefix = 'b'"), 7, "exclude"),
        (field("device_prefix = ''"), 7, "leave it out"),
        (format!("{good}\n{good}"), 7, "another key of the id"),
        (good.replace("'k'", "'a b'"), 1, "name of a key"),
        (good.replace("sha256 = '", "sha256 = 'x"), 4, "64 hexadecimal digits"),
        ("keys = 5".to_owned(), 1, "sequence"),
        ("[[key]]".to_owned(), 1, "key"),
        ("[[keys".to_owned(), 1, "]"),
    ] {
        let mistake = parse(&text).unwrap_err();
        assert!(mistake.line == Some(line) && mistake.what.contains(words), "{text}\n{mistake}");
        assert!(!mistake.to_string().contains('\n'));
    }
    assert!(parse("").unwrap().is_empty());
}

#[test]
fn a_key_that_was_pasted_into_the_file_is_not_in_the_complaint() {
    let secret = secret(9);
    let (_, tail) = secret.reveal().rsplit_once('_').unwrap();
    for text in [
        entry(&secret, "").replace(&secret.hash().to_string(), secret.reveal()),
        entry(&secret, &format!("datasets = '{}'", secret.reveal())),
        entry(&secret, &format!("{} = 1", secret.reveal())),
        entry(&secret, "").replace("'k'", &format!("'{}'", secret.reveal())),
        secret.reveal().to_owned(),
        format!("# {}\n{} = '{}", secret.reveal(), secret.reveal(), secret.reveal()),
    ] {
        let complaint = parse(&text).unwrap_err().to_string();
        assert!(!complaint.contains(tail), "{complaint}");
    }
}
