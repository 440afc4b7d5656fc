//! What every request passes first, and what every answer carries.
//!
//! - The `Host` must be an address, `localhost`, or a name the operator gave: a page of another site
//!   whose name was rebound to us has that site's name there.
//! - Calls from other sites' pages are refused (`Sec-Fetch-Site`, `Origin`).
//! - What changes something needs `X-CSRF-Token`: an HMAC of the session cookie under a key of this
//!   process, so a token is worth nothing with another cookie.
//! - Answers forbid framing, sniffing, referrers and every source of code but our own files.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::{hmac, rand};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::auth::{Action, Authorizer, require};
use crate::error::{ApiError, Code};

/// Name of the session cookie.
pub const COOKIE: &str = "malla_session";
/// Where mutating calls carry their token.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// Answers kubelets, whatever host they name.
pub const HEALTH: &str = "/healthz";

const SESSION_BYTES: usize = 32;

/// Nothing but our own files: no inline code, no other origin, no frames, no plug-ins.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
     worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Checks requests; one per server.
#[derive(Debug)]
pub struct Guard {
    key: hmac::Key,
    hosts: Vec<String>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
}

/// The session of a request that has none that we know of gets a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) token: String,
    /// Whether the browser must be told.
    pub(crate) new: bool,
}

/// No randomness to be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

impl Guard {
    /// `hosts`: further names (without port) this console is reached by.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(hosts: Vec<String>, authorizer: Arc<dyn Authorizer>) -> Result<Self, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| NoRandomness)?;
        Ok(Self {
            key,
            hosts,
            authorizer,
        })
    }

    /// The request's session, or a new one.
    pub(crate) fn session(&self, headers: &HeaderMap) -> Result<Session, NoRandomness> {
        if let Some(id) = cookie(headers) {
            let token = self.token(id);
            return Ok(Session {
                id: id.to_owned(),
                token,
                new: false,
            });
        }
        let mut bytes = [0; SESSION_BYTES];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        let id = URL_SAFE_NO_PAD.encode(bytes);
        Ok(Session {
            token: self.token(&id),
            id,
            new: true,
        })
    }

    fn token(&self, session: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, session.as_bytes()))
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        self.check_host(request)?;
        let headers = request.headers();
        let path = request.uri().path();
        let is_api = path.starts_with("/api/") || path.starts_with("/jaeger/");
        if is_api && text(headers, "sec-fetch-site").is_some_and(|site| site == "cross-site") {
            return Err(foreign());
        }
        if [Method::GET, Method::HEAD].contains(request.method()) {
            return Ok(());
        }
        check_origin(headers)?;
        if only_asks(path) {
            return Ok(());
        }
        let refused = |why: &str| {
            ApiError::new(Code::Csrf, why)
                .at("X-CSRF-Token")
                .fix("send the token of GET /api/malla/v1/session with its cookie")
        };
        let session = cookie(headers).ok_or_else(|| refused("there is no session cookie"))?;
        let token = text(headers, CSRF_HEADER).and_then(|t| URL_SAFE_NO_PAD.decode(t).ok());
        let token = token.ok_or_else(|| refused("the anti-forgery token is missing"))?;
        // Compares in constant time.
        hmac::verify(&self.key, session.as_bytes(), &token)
            .map_err(|_| refused("the anti-forgery token is not of this session"))
    }

    fn check_host(&self, request: &Request) -> Result<(), ApiError> {
        if request.uri().path() == HEALTH {
            return Ok(());
        }
        let host = request.uri().authority().map(ToString::to_string);
        let host = host.or_else(|| text(request.headers(), "host").map(str::to_owned));
        let name = host.as_deref().and_then(name_of).unwrap_or_default();
        let known = name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok()
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(&name));
        if known {
            return Ok(());
        }
        let refused = format!("this console is not reached by the name {name:?}");
        Err(ApiError::new(Code::Forbidden, refused)
            .at("Host")
            .fix("use an address or localhost, or start it with --host NAME"))
    }
}

/// Runs the checks before a request is looked at, and dresses its answer.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let answer = match admit(&guard, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    dressed(answer)
}

async fn admit(guard: &Guard, request: &mut Request) -> Result<(), ApiError> {
    guard.check(request)?;
    let path = request.uri().path();
    if !(path.starts_with("/api/") || path.starts_with("/jaeger/")) {
        return Ok(()); // The pages themselves tell nothing.
    }
    let user = guard.authorizer.identify(request.headers()).await?;
    let action = action(request.method(), path);
    require(guard.authorizer.as_ref(), &user, &action).await?;
    request.extensions_mut().insert(user);
    Ok(())
}

/// Prometheus' clients send long questions by POST; they change nothing.
fn only_asks(path: &str) -> bool {
    ["query", "query_range", "labels", "series"]
        .iter()
        .any(|call| path.strip_prefix("/api/v1/") == Some(call))
}

/// A request as an action on a part of the API; handlers ask again about objects.
fn action(method: &Method, path: &str) -> Action {
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::DELETE => "delete",
        _ if only_asks(path) => "get",
        _ => "update",
    };
    let part = path.strip_prefix("/api/malla/v1/").unwrap_or(path);
    let part = part.trim_start_matches('/').split(['/', ':']).next();
    Action {
        verb,
        resource: part.unwrap_or_default().to_owned(),
        namespace: String::new(),
        name: String::new(),
    }
}

fn dressed(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    answer
}

fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    if text(headers, "sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site))
    {
        return Err(foreign());
    }
    let Some(origin) = text(headers, "origin") else {
        return Ok(()); // Not a browser, or not a page's call.
    };
    let host = text(headers, "host").unwrap_or_default();
    let theirs = origin.split_once("://").map_or("", |(_, host)| host);
    if theirs.eq_ignore_ascii_case(host) {
        return Ok(());
    }
    Err(foreign())
}

fn foreign() -> ApiError {
    ApiError::new(
        Code::Forbidden,
        "the call comes from a page of another site",
    )
    .at("Origin")
    .fix("open the console at its own address")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The session id, if it has the shape of one of ours.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, id)| id)
        .filter(|id| {
            URL_SAFE_NO_PAD
                .decode(id)
                .is_ok_and(|bytes| bytes.len() == SESSION_BYTES)
        })
}

/// `[::1]:80` to `::1`, `localhost:80` to `localhost`.
fn name_of(host: &str) -> Option<String> {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map(|(name, _)| name.to_owned());
    }
    host.split(':').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::auth::AllowAll;

    fn guarded() -> Guard {
        let user = "demo".to_owned();
        Guard::new(vec!["console.example".into()], Arc::new(AllowAll { user })).unwrap()
    }

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = http::Request::builder()
            .method(method)
            .uri("/api/malla/v1/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        let guard = guarded();
        let check = |host: &str| guard.check(&request("GET", &[("host", host)])).is_ok();
        for good in [
            "127.0.0.1:20001",
            "localhost",
            "LOCALHOST:1",
            "[::1]:20001",
            "10.1.2.3",
            "console.example:80",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:20001",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!check(bad), "{bad}");
        }
        assert!(guard.check(&request("GET", &[])).is_err());
    }

    #[test]
    fn changes_need_the_token_of_their_session() {
        let guard = guarded();
        let session = guard.session(&HeaderMap::new()).unwrap();
        assert!(session.new);
        let cookie = format!("a=b; {COOKIE}={}", session.id);
        let host = ("host", "localhost");
        let good = [
            host,
            ("cookie", cookie.as_str()),
            (CSRF_HEADER, session.token.as_str()),
        ];
        assert_eq!(guard.check(&request("POST", &good)), Ok(()));
        assert_eq!(guard.check(&request("DELETE", &good)), Ok(()));
        let code =
            |headers: &[(&str, &str)]| guard.check(&request("POST", headers)).unwrap_err().code;
        assert_eq!(code(&[host]), Code::Csrf);
        assert_eq!(code(&good[..2]), Code::Csrf);
        let other = guard.session(&HeaderMap::new()).unwrap();
        assert_eq!(
            code(&[good[0], good[1], (CSRF_HEADER, &other.token)]),
            Code::Csrf
        );
        assert_eq!(code(&[good[0], good[1], (CSRF_HEADER, "")]), Code::Csrf);
        // The same key gives the same cookie the same token; another process does not.
        let headers = request("GET", &good[..2]).headers().clone();
        assert_eq!(guard.session(&headers).unwrap().token, session.token);
        assert_ne!(guarded().session(&headers).unwrap().token, session.token);
    }

    #[test]
    fn questions_by_post_need_no_token() {
        let ask = |path: &str, origin: &str| {
            let request = http::Request::post(path)
                .header("host", "localhost")
                .header("origin", origin)
                .body(Body::empty());
            guarded().check(&request.unwrap()).is_ok()
        };
        assert!(ask("/api/v1/query", "http://localhost"));
        assert!(!ask("/api/v1/query", "http://evil.example"));
        assert!(!ask("/api/v1/query/x", "http://localhost"));
        assert!(!ask("/api/malla/v1/query", "http://localhost"));
    }

    #[test]
    fn other_sites_pages_are_refused() {
        let guard = guarded();
        let session = guard.session(&HeaderMap::new()).unwrap();
        let cookie = format!("{COOKIE}={}", session.id);
        let base = [
            ("host", "localhost:1"),
            ("cookie", cookie.as_str()),
            (CSRF_HEADER, session.token.as_str()),
        ];
        let check = |more: (&str, &str)| {
            let headers: Vec<_> = base.into_iter().chain([more]).collect();
            guard.check(&request("POST", &headers)).is_ok()
        };
        assert!(check(("origin", "http://localhost:1")));
        assert!(check(("sec-fetch-site", "same-origin")));
        for bad in ["http://localhost:2", "https://evil.example", "null"] {
            assert!(!check(("origin", bad)), "{bad}");
        }
        assert!(!check(("sec-fetch-site", "same-site")));
        let read = request(
            "GET",
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
        );
        assert!(guard.check(&read).is_err());
    }
}
