//! What the service answers, in gRPC or HTTP, as one kind of decision.

// Old spellings that services still send are taken here too.
#![allow(deprecated)]

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};
use malla_proxy_config::http_filter::AuthzHttp;
use malla_proxy_config::metadata::{Object, Value, from_struct};
use malla_proxy_config::request::text;
use malla_xds_proto::core;
use malla_xds_proto::core::header_value_option::HeaderAppendAction;
use malla_xds_proto::pb::envoy::service::auth::v3 as pb;

use crate::http::exchange::Exchange;
use crate::upstream::Upstreams;

const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// What is decided.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// It goes on, changed.
    Allowed(Box<Changes>),
    /// It ends here.
    Denied(Box<Denial>),
    /// There is no answer.
    Unknown,
}

/// Changes to a request that goes on, and to its answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) request: Vec<Change>,
    pub(super) remove: Vec<HeaderName>,
    pub(super) response: Vec<(HeaderName, HeaderValue, AddAction)>,
    pub(super) query_set: Vec<(String, String)>,
    pub(super) query_remove: Vec<String>,
    pub(super) metadata: Object,
    /// Something that was asked for is no header field.
    pub(super) invalid: bool,
}

/// The client's answer.
#[derive(Debug, PartialEq)]
pub(super) struct Denial {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) metadata: Object,
    pub(super) invalid: bool,
}

/// How a field of an answer is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddAction {
    Add,
    Set,
    AddIfAbsent,
    OverwriteIfExists,
}

/// One field of a request.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    name: Name,
    value: HeaderValue,
    how: How,
}

#[derive(Debug, PartialEq)]
enum Name {
    Header(HeaderName),
    Path,
    Method,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Set,
    /// One more.
    Add,
    /// Behind what is there, in its line; nothing where there is none.
    Append,
}

impl Changes {
    /// True if the request may have to be routed anew.
    pub(super) fn changes_request(&self) -> bool {
        !(self.request.is_empty()
            && self.remove.is_empty()
            && self.query_set.is_empty()
            && self.query_remove.is_empty())
    }
}

impl Change {
    fn new(name: &str, value: &[u8], how: How) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let name = match lower.as_str() {
            ":path" => Name::Path,
            ":method" => Name::Method,
            ":authority" | "host" => Name::Header(header::HOST),
            other => Name::Header(other.parse().ok()?),
        };
        Some(Self {
            name,
            value: HeaderValue::from_bytes(value).ok()?,
            how,
        })
    }

    /// Does it.
    pub(super) fn apply<U: Upstreams>(self, x: &mut Exchange<U>) {
        let name = match self.name {
            Name::Path => {
                if let Ok(path) = PathAndQuery::try_from(self.value.as_bytes()) {
                    x.set_path(path);
                }
                return;
            }
            Name::Method => {
                if let Ok(method) = Method::from_bytes(self.value.as_bytes()) {
                    x.head.method = method;
                }
                return;
            }
            Name::Header(name) => name,
        };
        let headers = &mut x.head.headers;
        // There is one authority.
        let one = name == header::HOST;
        match self.how {
            How::Append if !one => {
                if let Some(value) = joined(headers, &name, &self.value) {
                    headers.insert(name, value);
                }
            }
            How::Add if !one => {
                headers.append(name, self.value);
            }
            How::Set | How::Add | How::Append => {
                headers.insert(name, self.value);
            }
        }
    }
}

/// All lines of a field and one value more, in one line.
fn joined(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let mut out = lines.next()?.as_bytes().to_vec();
    for more in lines.chain([value]) {
        out.push(b',');
        out.extend_from_slice(more.as_bytes());
    }
    HeaderValue::from_bytes(&out).ok()
}

/// The answer to a gRPC question.
pub(super) fn of_grpc(response: pb::CheckResponse) -> Decision {
    use pb::check_response::HttpResponse;
    let pb::CheckResponse {
        status,
        dynamic_metadata,
        http_response,
    } = response;
    let metadata = dynamic_metadata.map_or_else(Object::new, from_struct);
    let code = status.map_or(0, |status| status.code);
    match (code, http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => {
            Decision::Allowed(Box::new(changes(ok, metadata)))
        }
        (0, _) => Decision::Allowed(Box::new(Changes {
            metadata,
            ..Changes::default()
        })),
        (_, Some(HttpResponse::ErrorResponse(_))) => Decision::Unknown,
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            Decision::Denied(Box::new(denial(denied, metadata)))
        }
        (_, Some(HttpResponse::OkResponse(_)) | None) => Decision::Denied(Box::new(Denial {
            status: StatusCode::FORBIDDEN,
            headers: Vec::new(),
            body: Bytes::new(),
            metadata,
            invalid: false,
        })),
    }
}

fn changes(ok: pb::OkHttpResponse, metadata: Object) -> Changes {
    let pb::OkHttpResponse {
        headers,
        headers_to_remove,
        dynamic_metadata,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = ok;
    let mut out = Changes {
        metadata: dynamic_metadata.map_or(metadata, from_struct),
        query_set: query_parameters_to_set
            .into_iter()
            .map(|parameter| (parameter.key, parameter.value))
            .collect(),
        query_remove: query_parameters_to_remove,
        remove: headers_to_remove
            .iter()
            .filter_map(|name| removable(name))
            .collect(),
        ..Changes::default()
    };
    for option in headers {
        // Of a request's fields Envoy reads the old flag alone, not the action.
        let append = option.append.is_some_and(|append| append.value);
        let how = if append { How::Append } else { How::Set };
        let (name, value) = field(option);
        match Change::new(&name, &value, how) {
            Some(change) => out.request.push(change),
            None => out.invalid = true,
        }
    }
    for option in response_headers_to_add {
        let how = match (&option.append, action(&option)) {
            (Some(append), _) if append.value => AddAction::Add,
            (Some(_), _) => AddAction::Set,
            (None, HeaderAppendAction::AppendIfExistsOrAdd) => AddAction::Add,
            (None, HeaderAppendAction::AddIfAbsent) => AddAction::AddIfAbsent,
            (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => AddAction::Set,
            (None, HeaderAppendAction::OverwriteIfExists) => AddAction::OverwriteIfExists,
        };
        match header(option) {
            Some((name, value)) => out.response.push((name, value, how)),
            None => out.invalid = true,
        }
    }
    out
}

fn action(option: &core::HeaderValueOption) -> HeaderAppendAction {
    HeaderAppendAction::try_from(option.append_action)
        .unwrap_or(HeaderAppendAction::AppendIfExistsOrAdd)
}

fn field(option: core::HeaderValueOption) -> (String, Vec<u8>) {
    let header = option.header.unwrap_or_default();
    let value = match header.raw_value.is_empty() {
        true => header.value.into_bytes(),
        false => header.raw_value,
    };
    (header.key, value)
}

fn header(option: core::HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = field(option);
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(&value).ok()?))
}

/// Neither pseudo-headers nor the host can be taken off.
fn removable(name: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    (name != header::HOST).then_some(name)
}

fn denial(denied: pb::DeniedHttpResponse, metadata: Object) -> Denial {
    let pb::DeniedHttpResponse {
        status,
        headers,
        body,
    } = denied;
    let code = status.map_or(0, |status| status.code);
    let status = u16::try_from(code)
        .ok()
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok());
    let asked = headers.len();
    let headers: Vec<_> = headers.into_iter().filter_map(header).collect();
    Denial {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        invalid: headers.len() < asked,
        headers,
        body: body.into(),
        metadata,
    }
}

/// The answer to a plain question.
pub(super) fn of_http(response: Response<Bytes>, service: &AuthzHttp) -> Decision {
    let (mut head, body) = response.into_parts();
    if head.status.is_server_error() {
        return Decision::Unknown;
    }
    let removed = head
        .headers
        .get_all(&REMOVE)
        .iter()
        .flat_map(|line| text(line).split(','));
    let remove: Vec<HeaderName> = removed.filter_map(removable).collect();
    head.headers.remove(&REMOVE);
    let mut metadata = Object::new();
    for (name, value) in &head.headers {
        if service.to_metadata.has(name.as_str()) {
            let value = Value::String(text(value).to_owned());
            metadata.insert(name.as_str().to_owned(), value);
        }
    }
    let fields = head.headers.iter();
    if head.status != StatusCode::OK {
        let may_see = |name: &HeaderName| match &service.to_client {
            Some(list) => list.has(name.as_str()),
            None => *name != header::HOST,
        };
        // The body's framing is the answer's own.
        let headers = fields
            .filter(|(name, _)| may_see(name))
            .filter(|(name, _)| !is_framing(name))
            .map(|(name, value)| (name.clone(), value.clone()));
        return Decision::Denied(Box::new(Denial {
            status: head.status,
            headers: headers.collect(),
            body,
            metadata,
            invalid: false,
        }));
    }
    let mut out = Changes {
        remove,
        metadata,
        ..Changes::default()
    };
    for (name, value) in fields {
        let lists = [
            (&service.to_upstream, How::Set),
            (&service.append_upstream, How::Add),
        ];
        for (list, how) in lists {
            if list.has(name.as_str()) {
                out.request
                    .extend(Change::new(name.as_str(), value.as_bytes(), how));
            }
        }
        if service.to_client_on_success.has(name.as_str()) {
            out.response
                .push((name.clone(), value.clone(), AddAction::Add));
        }
    }
    Decision::Allowed(Box::new(out))
}

fn is_framing(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
        || name == "keep-alive"
}

/// A path whose query was edited; `None` if nothing is to be edited, or it would be no path.
pub(super) fn edited_query(
    path: &str,
    set: &[(String, String)],
    remove: &[String],
) -> Option<PathAndQuery> {
    if set.is_empty() && remove.is_empty() {
        return None;
    }
    let (bare, query) = path.split_once('?').unwrap_or((path, ""));
    // By name, as Envoy writes them.
    let mut pairs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.entry(key).or_default().push(value);
    }
    for (key, value) in set {
        pairs.insert(key, vec![value]);
    }
    for key in remove {
        pairs.remove(key.as_str());
    }
    let mut whole = bare.to_owned();
    for (key, values) in &pairs {
        for value in values {
            whole.push(if whole.len() == bare.len() { '?' } else { '&' });
            whole.push_str(&format!("{key}={value}"));
        }
    }
    PathAndQuery::try_from(whole).ok()
}

/// What a service's bytes decide, for `fuzz/`: whether the request goes on, where they say so, and what is off with that.
#[cfg(fuzzing)]
pub fn decided(bytes: &[u8]) -> Option<(bool, Option<&'static str>)> {
    use prost::Message as _;
    let decision = of_grpc(pb::CheckResponse::decode(bytes).ok()?);
    Some(match decision {
        Decision::Allowed(changes) => {
            let path = edited_query("/a/b?c=d&e", &changes.query_set, &changes.query_remove);
            let moved = path.is_some_and(|path| path.path() != "/a/b");
            let removed = changes.remove.contains(&header::HOST);
            let off = moved.then_some("the path is another one");
            (true, off.or(removed.then_some("the host is removed")))
        }
        Decision::Denied(denial) => {
            let odd = !(200..600).contains(&denial.status.as_u16());
            (false, odd.then_some("the status is none of an answer"))
        }
        Decision::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::edited_query;

    #[test]
    fn queries_are_edited() {
        let check = |path: &str, set: &[(&str, &str)], remove: &[&str], want: Option<&str>| {
            let set: Vec<_> = set
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let remove: Vec<_> = remove.iter().map(|name| (*name).to_owned()).collect();
            let got = edited_query(path, &set, &remove);
            assert_eq!(got.as_ref().map(|path| path.as_str()), want, "{path}");
        };
        check("/a?x=1", &[], &[], None);
        check("/a?x=1&y=2", &[("x", "3")], &[], Some("/a?x=3&y=2"));
        check("/a?x=1&y=2", &[], &["x", "y"], Some("/a"));
        check("/a", &[("x", "1")], &[], Some("/a?x=1"));
        // What is no path changes nothing.
        check("/a", &[("x", "1 HTTP/1.1\r\nhost: b")], &[], None);
    }
}
