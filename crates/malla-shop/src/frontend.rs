//! The page, and the way from the page to the services behind it.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rust_embed::RustEmbed;

use crate::serve::{Answer, Answers, full, plain};
use crate::upstream::Shop;

/// Path prefixes and the services they lead to.
const BEHIND: [(&str, &str); 6] = [
    ("/product", "product"),
    ("/user", "user"),
    ("/cart", "cart"),
    ("/list", "cart"),
    ("/clear", "cart"),
    ("/order", "order"),
];

/// As long as a well-known web server waits.
const PATIENCE: Duration = Duration::from_secs(60);

const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

#[derive(RustEmbed)]
#[folder = "ui/"]
struct Page;

#[derive(Debug)]
pub(crate) struct Frontend {
    shop: Shop,
}

impl Frontend {
    pub(crate) fn new(shop: Shop) -> Self {
        Self { shop }
    }

    async fn forward(&self, service: &str, request: Request<Incoming>) -> Answer {
        match self.try_forward(service, request).await {
            Ok(answer) => answer,
            Err(Failure::Unreachable) => plain(StatusCode::BAD_GATEWAY, "502 Bad Gateway\n"),
            Err(Failure::Late) => plain(StatusCode::GATEWAY_TIMEOUT, "504 Gateway Time-out\n"),
        }
    }

    async fn try_forward(
        &self,
        service: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Failure> {
        let (mut head, body) = request.into_parts();
        let authority = self.shop.authority(service);
        let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
        head.uri = Uri::try_from(format!("http://{authority}{target}"))
            .map_err(|_| Failure::Unreachable)?;
        head.version = http::Version::HTTP_11;
        drop_hop_by_hop(&mut head.headers);
        let host = HeaderValue::from_str(&authority).map_err(|_| Failure::Unreachable)?;
        head.headers.insert(header::HOST, host);
        let request = Request::from_parts(head, body.boxed_unsync());
        let sent = tokio::time::timeout(PATIENCE, self.shop.send(request)).await;
        let answer = sent
            .map_err(|_| Failure::Late)?
            .map_err(|_| Failure::Unreachable)?;
        let (mut head, body) = answer.into_parts();
        drop_hop_by_hop(&mut head.headers);
        head.version = http::Version::HTTP_11;
        Ok(Response::from_parts(head, body.boxed_unsync()))
    }
}

enum Failure {
    Unreachable,
    Late,
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

/// The service a path leads to.
fn behind(path: &str) -> Option<&'static str> {
    BEHIND
        .iter()
        .find(|(prefix, _)| path.starts_with(prefix))
        .map(|(_, service)| *service)
}

impl Answers for Frontend {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(service) = behind(request.uri().path()) {
            return self.forward(service, request).await;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "405 Not Allowed\n");
        }
        asset(request.uri().path())
    }
}

fn asset(path: &str) -> Answer {
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    let Some(file) = Page::get(name) else {
        return plain(StatusCode::NOT_FOUND, "404 Not Found\n");
    };
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let mut answer = Response::new(full(Bytes::from(file.data.into_owned())));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_lead_to_services() {
        assert_eq!(behind("/product"), Some("product"));
        assert_eq!(behind("/list"), Some("cart"));
        assert_eq!(behind("/clear"), Some("cart"));
        assert_eq!(behind("/"), None);
        assert_eq!(behind("/shop.js"), None);
    }

    #[test]
    fn the_page_is_built_in() {
        assert_eq!(
            asset("/").headers()[header::CONTENT_TYPE],
            "text/html; charset=utf-8"
        );
        for pid in 1..=8 {
            assert_eq!(asset(&format!("/art/{pid}.svg")).status(), StatusCode::OK);
        }
        assert_eq!(asset("/../Cargo.toml").status(), StatusCode::NOT_FOUND);
    }
}
