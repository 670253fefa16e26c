//! The gateway describes itself, to everybody, and shows it without the help of other servers.

use crate::support::{Gateway, gateway, guarded, post};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use ingest::Config;
use ingest::auth::{Secret, Settings};
use serde_json::Value;
use tower::ServiceExt;

async fn ask(gateway: &Gateway, method: Method, path: &str) -> (StatusCode, HeaderMap, Bytes) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let (head, body) = gateway.router.clone().oneshot(request).await.unwrap().into_parts();
    (head.status, head.headers, to_bytes(body, usize::MAX).await.unwrap())
}

#[tokio::test]
async fn the_description_is_served_and_names_no_dataset() {
    let gateway = gateway(Config::default());
    let (status, headers, body) = ask(&gateway, Method::GET, "/openapi.json").await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document, ingest::openapi());
    assert!(document["paths"]["/v1/events/{dataset}"]["post"]["responses"]["202"].is_object());
}

#[tokio::test]
async fn the_page_and_all_its_parts_come_from_the_gateway_and_from_nowhere_else() {
    let gateway = gateway(Config::default());
    let (status, headers, _) = ask(&gateway, Method::GET, "/docs").await;
    assert_eq!((status.as_u16(), &headers["location"]), (308, &"docs/".parse().unwrap()));

    let (status, headers, page) = ask(&gateway, Method::GET, "/docs/").await;
    assert_eq!(status, 200);
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    let page = String::from_utf8(page.to_vec()).unwrap();
    let links = page.split(['"', ' ']).filter_map(|word| word.strip_prefix("./"));
    let mut parts = 0;
    for part in links {
        let (status, headers, body) = ask(&gateway, Method::GET, &format!("/docs/{part}")).await;
        assert_eq!(status, 200, "{part}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(body.len() > 100, "{part}");
        parts += 1;
    }
    assert!(parts >= 5 && !page.contains("//unpkg") && !page.contains("https:"), "{page}");
    let (_, _, start) = ask(&gateway, Method::GET, "/docs/swagger-initializer.js").await;
    assert!(String::from_utf8_lossy(&start).contains("\"../openapi.json\""));
    let (status, headers, _) = ask(&gateway, Method::GET, "/docs/nothing").await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (404, &"application/problem+json".parse().unwrap()));
}

#[tokio::test]
async fn who_has_no_key_may_read_how_to_show_one() {
    let hash = Secret::from_entropy([1; 6], [1; 32]).hash();
    let keys = format!("[[keys]]\nid = '010101010101'\nname = 'k1'\nsha256 = '{hash}'\n");
    let gateway = guarded(Config::default(), &Settings { keys_text: Some(keys), ..Settings::default() });
    for path in ["/openapi.json", "/docs/"] {
        assert_eq!(ask(&gateway, Method::GET, path).await.0, 200, "{path}");
    }
    assert_eq!(gateway.json(r#"{"device_id":"a"}"#).await.status, 401);
}

#[tokio::test]
async fn the_root_names_both() {
    let gateway = gateway(Config::default());
    let (_, _, body) = ask(&gateway, Method::GET, "/").await;
    let root: Value = serde_json::from_slice(&body).unwrap();
    for link in ["openapi", "docs"] {
        let (status, ..) = ask(&gateway, Method::GET, root[link].as_str().unwrap()).await;
        assert!(status.is_success() || status.is_redirection(), "{link}: {status}");
    }
}

#[tokio::test]
async fn pages_can_be_asked_for_their_heads_and_take_nothing() {
    let gateway = gateway(Config::default());
    for path in ["/", "/openapi.json", "/docs/"] {
        let (status, headers, body) = ask(&gateway, Method::HEAD, path).await;
        assert_eq!((status.as_u16(), body.len()), (200, 0), "{path}");
        assert!(headers.contains_key("x-request-id"));
        for method in [Method::POST, Method::OPTIONS] {
            let (status, headers, _) = ask(&gateway, method, path).await;
            assert_eq!((status.as_u16(), &headers["allow"]), (405, &"GET,HEAD".parse().unwrap()), "{path}");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_get_no_permission() {
    let gateway = gateway(Config::default());
    let mut preflight = Request::builder().method(Method::OPTIONS).uri("/v1/events/events");
    preflight = preflight.header("origin", "https://a.example").header("access-control-request-method", "POST");
    let mut simple = post("application/json", Body::from(r#"{"device_id":"a"}"#));
    simple.headers_mut().insert("origin", "https://a.example".parse().unwrap());
    for request in [preflight.body(Body::empty()).unwrap(), simple] {
        let answer = gateway.send(request).await;
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{answer:?}");
    }
}
