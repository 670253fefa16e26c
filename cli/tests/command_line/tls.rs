//! The section `[tls]`, as curl sees it.

use super::{Running, assert_says, complaint, empty, lakehose, up};
use std::path::Path;
use std::process::Command;

/// Posts an event with curl, which `infra/test` sees to.
fn curl(directory: &Path, url: &str, args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20", url]).args(args);
    command.args(["-H", "content-type: application/json", "-d", r#"{"device_id": "sensor-1"}"#]);
    let output = command.current_dir(directory).output().expect("curl is installed");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// `cert.pem` and `key.pem` for both ends of a connection; answers the file of their authority.
fn write_certificates(directory: &Path) -> &'static str {
    let key = || rcgen::KeyPair::generate().unwrap();
    let (ca_key, leaf_key) = (key(), key());
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(directory.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let mut leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "sensor-1");
    let leaf = leaf.signed_by(&leaf_key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    std::fs::write(directory.join("cert.pem"), leaf.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), leaf_key.serialize_pem()).unwrap();
    "ca.pem"
}

#[test]
fn curl_posts_over_tls_and_beyond_loopback_only_with_a_certificate() {
    let directory = empty();
    let authority = write_certificates(directory.path());
    let tls = "[tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n";

    let running = Running::start(up(directory.path(), tls, &[]));
    let url = running.fact("POST events to ");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    assert!(running.get("/livez").starts_with("HTTP/1.1 200"), "the admin listener stays plain");
    let said = curl(directory.path(), url, &["--cacert", authority]);
    assert!(said.contains(r#""accepted":1"#), "{said}");
    assert!(curl(directory.path(), url, &[]).contains("certificate"), "an unknown authority is not trusted");
    assert!(curl(directory.path(), &url.replace("https", "http"), &[]).contains("https://"));
    assert!(running.stop().status.success());

    let file = format!("{tls}client_ca = '{authority}'\n[ingest]\naudit = true\n");
    std::fs::write(directory.path().join("lakehose.toml"), file).unwrap();
    let up = lakehose(directory.path(), &["up", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]);
    let running = Running::start(up);
    let url = running.fact("POST events to ");
    let said = curl(directory.path(), url, &["--cacert", authority, "--cert", "cert.pem", "--key", "key.pem"]);
    assert!(said.contains(r#""accepted":1"#), "{said}");
    let said = curl(directory.path(), url, &["--cacert", authority]);
    assert!(said.contains("certificate required") && !said.contains("accepted"), "{said}");
    let output = running.stop();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("caller=\"sensor-1\""), "it is known who posted");
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let directory = empty();
    let tls = "[tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n";
    let (_, line) = complaint(up(directory.path(), tls, &[]));
    assert_says(&line, &["[tls]", "cert.pem", "No such file"]);
    let (_, line) = complaint(up(directory.path(), "[tls]\ncert = 'cert.pem'\n", &[]));
    assert_says(&line, &["tls.key", "tls.cert"]);
    std::fs::write(directory.path().join("lakehose.toml"), tls).unwrap();
    let output = lakehose(directory.path(), &["check"]).output().unwrap();
    assert_says(&String::from_utf8(output.stdout).unwrap(), &["FAIL  tls", "cert.pem"]);
}
