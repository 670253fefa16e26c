//! The description, and a page that shows it, for who builds devices.
//!
//! The page is Swagger UI, all of it in this binary: a browser needs nothing from elsewhere, and is told not to load it.

use crate::openapi::openapi;
use crate::refusal::Refusal;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

/// Swagger UI writes styles into its elements, and its pictures are within its files.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /openapi.json`
pub(crate) async fn description() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi().to_string().into());
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// `GET /docs`: the page loads its parts from beside itself.
pub(crate) async fn enter() -> Redirect {
    Redirect::permanent("docs/")
}

/// `GET /docs/`
pub(crate) async fn front() -> Response {
    file("index.html")
}

/// `GET /docs/{file}`
pub(crate) async fn part(Path(name): Path<String>) -> Response {
    file(&name)
}

fn file(name: &str) -> Response {
    // From elsewhere, the page would fetch a badge that says whether the description is valid.
    static PAGE: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("../openapi.json").validator_url("none")));
    match utoipa_swagger_ui::serve(name, Arc::clone(&PAGE)) {
        Ok(Some(file)) => {
            let headers = [
                (CONTENT_TYPE, file.content_type),
                (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
                (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                (CACHE_CONTROL, "no-cache".to_owned()),
            ];
            (headers, file.bytes.into_owned()).into_response()
        }
        _ => Refusal::NoSuchPath.into_response(),
    }
}
