//! `lakehose keys`, and files of keys that cannot be used.

use super::{assert_says, complaint, empty, lakehose, up};

#[test]
fn keys_that_cannot_be_read_are_named_before_anything_starts() {
    for (auth, words) in [
        ("keys = 'none.toml'", &["[auth]", "none.toml", "No such file"][..]),
        ("keys = 'bad.toml'", &["[auth]", "bad.toml", "line 2", "64 hexadecimal"]),
        ("keys_text = 'x = 1'", &["[auth]", "keys_text", "line 1", "`x`"]),
        ("jwks = 'bad.toml'", &["[auth]", "bad.toml", "JSON Web Key Set"]),
        ("issuer = 'me'", &["[auth]", "issuer", "`jwks`"]),
    ] {
        let directory = empty();
        std::fs::write(directory.path().join("bad.toml"), "[[keys]]\nsha256 = 'lh_a_secret'\n").unwrap();
        let (code, line) = complaint(up(directory.path(), &format!("[auth]\n{auth}"), &[]));
        assert_eq!(code, 1, "{line}");
        assert_says(&line, words);
        assert!(!line.contains("lh_a_secret"), "{line}");
    }
}

#[test]
fn a_key_is_shown_once_and_listed_and_revoked_by_its_name() {
    let directory = empty();
    let keys = |args: &[&str]| lakehose(directory.path(), &[&["keys"], args].concat());
    let done = |args: &[&str]| {
        let output = keys(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_says(&complaint(keys(&["ls"])).1, &["keys.toml", "--file", "keys create"]);
    assert_says(&complaint(keys(&["revoke", "a"])).1, &["keys.toml", "--file"]);

    let args = ["create", "greenhouse", "--dataset", "events", "--device-prefix", "g-", "--expires", "90d"];
    let key = done(&args);
    assert!(key.starts_with("lh_") && key.trim_end().len() == 59 && key.lines().count() == 1, "{key}");
    assert_ne!(done(&["create", "other"]), key);
    assert_says(&complaint(keys(&args)).1, &["greenhouse", "already", "revoke"]);
    let file = std::fs::read_to_string(directory.path().join("keys.toml")).unwrap();
    let listed = done(&["ls"]);
    assert_says(&listed, &["greenhouse", "active", "to events, for devices g-…", "to all datasets", "never"]);
    let secret = key.trim_end().rsplit_once('_').unwrap().1;
    assert!(!file.contains(secret) && !listed.contains(secret));

    let id = key.split('_').nth(1).unwrap();
    assert_says(&done(&["revoke", "greenhouse"]), &["revoked", "greenhouse", id]);
    assert_says(&done(&["revoke", id]), &["was revoked at"]);
    assert_says(&complaint(keys(&["revoke", "greenhuose"])).1, &["greenhuose", "keys ls"]);
    let line: serde_json::Value = serde_json::from_str(done(&["ls", "--json"]).lines().next().unwrap()).unwrap();
    assert_eq!((&line["name"], &line["id"], &line["state"]), (&"greenhouse".into(), &id.into(), &"revoked".into()));
    assert_eq!((&line["datasets"][0], &line["device_prefix"]), (&"events".into(), &"g-".into()));
    assert_ne!(done(&args), key, "the name is free again");

    let checked = lakehose(directory.path(), &["check"]).env("LAKEHOSE_AUTH_KEYS", "keys.toml").output().unwrap();
    assert_says(&String::from_utf8(checked.stdout).unwrap(), &["ok    keys: 3 of devices, 0 that sign tokens"]);

    // Where the configuration says, unless another file is named.
    std::fs::write(directory.path().join("lakehose.toml"), "[auth]\nkeys = 'configured.toml'").unwrap();
    done(&["create", "a"]);
    assert!(done(&["ls"]).contains("\na ") && directory.path().join("configured.toml").exists());
    assert!(done(&["ls", "--file", "keys.toml"]).contains("greenhouse"));
}
