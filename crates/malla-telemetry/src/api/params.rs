//! Parameters of a call, from the query string and from a form.

use axum::extract::{FromRequest, Query, RawForm, Request};
use http::{Method, header};
use jiff::Timestamp;

use crate::promql::duration;

/// Names and values in the order given; names may repeat.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(pub(super) Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = (http::StatusCode, String);

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let bad =
            |error: &dyn std::fmt::Display| (http::StatusCode::BAD_REQUEST, error.to_string());
        let mut pairs = pairs(request.uri().query().unwrap_or_default()).map_err(|e| bad(&e))?;
        let form = request.headers().get(header::CONTENT_TYPE);
        let form = form.is_some_and(|v| {
            v.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        });
        if request.method() == Method::POST && form {
            let RawForm(body) = RawForm::from_request(request, state)
                .await
                .map_err(|e| bad(&e))?;
            let body = String::from_utf8_lossy(&body);
            pairs.extend(self::pairs(&body).map_err(|e| bad(&e))?);
        }
        Ok(Self(pairs))
    }
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let uri = http::Uri::builder()
        .path_and_query(format!("/?{text}"))
        .build();
    let uri = uri.map_err(|error| error.to_string())?;
    let Query(pairs) = Query::try_from_uri(&uri).map_err(|error| error.to_string())?;
    Ok(pairs)
}

impl Params {
    /// The first value of a name; empty ones count as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().find(|(n, v)| n == name && !v.is_empty());
        named.map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self
            .0
            .iter()
            .filter(move |(n, v)| n == name && !v.is_empty());
        named.map(|(_, value)| value.as_str())
    }

    /// A time: Unix seconds or RFC 3339. Unix milliseconds; the error names the parameter.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, String> {
        self.get(name).map(|text| time(name, text)).transpose()
    }

    /// A duration: seconds or as in `5m`. Milliseconds.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, String> {
        let parse = |text: &str| {
            let seconds = text.parse::<f64>().ok().map(|s| (s * 1000.0).round());
            let seconds = seconds.filter(|ms| ms.is_finite() && ms.abs() < 9e15);
            let milliseconds = seconds
                .map(|ms| ms as i64)
                .or_else(|| duration::parse(text));
            milliseconds.ok_or_else(|| {
                format!("invalid parameter {name:?}: cannot parse {text:?} to a valid duration")
            })
        };
        self.get(name).map(parse).transpose()
    }

    pub(super) fn limit(&self, name: &str) -> Result<Option<usize>, String> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| format!("invalid parameter {name:?}: {text:?} is not a number"))
        };
        self.get(name).map(parse).transpose()
    }
}

fn time(name: &str, text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        let milliseconds = (seconds * 1000.0).round();
        if milliseconds.is_finite() && milliseconds.abs() < 9e15 {
            return Ok(milliseconds as i64);
        }
    }
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(time.as_millisecond()),
        Err(_) => Err(format!(
            "invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp"
        )),
    }
}
