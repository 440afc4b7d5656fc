//! What an HTTP route of a VirtualService does besides forwarding.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::names;
use crate::analyze::Code;
use crate::istio::http_action::{
    CorsPolicy, FaultAbort, Headers, HttpDirectResponse, HttpFaultInjection, HttpRedirect,
    HttpRetry, HttpRewrite,
};
use crate::lower::grpc_code;
use crate::report::Report;

pub(super) fn headers(headers: Option<&Headers>, path: &str, report: &mut Report) {
    let Some(headers) = headers else { return };
    if let Some(request) = &headers.request {
        for (name, map) in [("set", &request.set), ("add", &request.add)] {
            edits(map, &format!("{path}.request.{name}"), true, report);
        }
        removals(&request.remove, &format!("{path}.request.remove"), report);
    }
    if let Some(response) = &headers.response {
        for (name, map) in [("set", &response.set), ("add", &response.add)] {
            edits(map, &format!("{path}.response.{name}"), false, report);
        }
        removals(&response.remove, &format!("{path}.response.remove"), report);
    }
}

/// The Host header, by either of its names.
fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn edits(map: &BTreeMap<String, String>, path: &str, may_set_authority: bool, report: &mut Report) {
    for (name, value) in map {
        let path = format!("{path}.{name}");
        operated_name(name, &path, may_set_authority, report);
        names::header_value(value, &path, report);
    }
}

fn removals(list: &[String], path: &str, report: &mut Report) {
    for (at, name) in list.iter().enumerate() {
        operated_name(name, &format!("{path}[{at}]"), false, report);
    }
}

fn operated_name(name: &str, path: &str, may_be_authority: bool, report: &mut Report) {
    if name.is_empty() {
        report.error(path, "a header needs a name").done();
    } else if is_authority(name) && may_be_authority {
    } else if name.starts_with(':') || is_authority(name) {
        report
            .error(path, "this header cannot be changed here")
            .value(format!("{name:?}"))
            .done();
    }
}

pub(super) fn redirect(redirect: &HttpRedirect, path: &str, report: &mut Report) {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let anything = set(&redirect.uri)
        || set(&redirect.prefix_rewrite)
        || set(&redirect.authority)
        || set(&redirect.scheme)
        || redirect.port.is_some()
        || redirect.derive_port.is_some();
    if !anything {
        report
            .error(path, "changes nothing")
            .fix("set uri, authority, scheme or port");
    }
    if set(&redirect.uri) && set(&redirect.prefix_rewrite) {
        report
            .error(path, "only one of uri, prefixRewrite may be set")
            .done();
    }
    let code = redirect
        .redirect_code
        .filter(|code| *code != 0)
        .unwrap_or(301);
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        report
            .error(
                format!("{path}.redirectCode"),
                "is not a redirect Envoy can answer",
            )
            .value(code)
            .fix("use 301, 302, 303, 307 or 308");
    }
    if set(&redirect.scheme) && !matches!(redirect.scheme.as_deref(), Some("http" | "https")) {
        report
            .error(format!("{path}.scheme"), "must be http or https")
            .done();
    }
    if let Some(number) = redirect.port.filter(|number| *number != 0) {
        names::port(number, &format!("{path}.port"), report);
    }
}

const LARGE_BODY: usize = 100 * 1024;
const LARGEST_BODY: usize = 1024 * 1024;

pub(super) fn direct_response(direct: &HttpDirectResponse, path: &str, report: &mut Report) {
    status(i64::from(direct.status), &format!("{path}.status"), report);
    let Some(body) = &direct.body else { return };
    let mut size = body.string.as_deref().map_or(0, str::len);
    if let Some(encoded) = &body.bytes {
        match STANDARD.decode(encoded) {
            Ok(bytes) => size = bytes.len(),
            Err(_) => report
                .error(format!("{path}.body.bytes"), "is not base64")
                .done(),
        }
    }
    if size > LARGEST_BODY {
        report
            .error(format!("{path}.body"), "is larger than 1 MiB")
            .fix("serve it from a service");
    } else if size > LARGE_BODY {
        report
            .warn(
                format!("{path}.body"),
                "is large, and every proxy holds a copy",
            )
            .done();
    }
}

fn status(code: i64, path: &str, report: &mut Report) {
    if !(200..600).contains(&code) {
        report
            .error(path, "is not a status code, 200 to 599")
            .value(code)
            .done();
    }
}

pub(super) fn rewrite(
    rewrite: &HttpRewrite,
    edits: Option<&Headers>,
    path: &str,
    report: &mut Report,
) {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    match (
        set(&rewrite.uri),
        &rewrite.uri_regex_rewrite,
        set(&rewrite.authority),
    ) {
        (true, Some(_), _) => report
            .error(path, "only one of uri, uriRegexRewrite may be set")
            .done(),
        (false, None, false) => report
            .error(path, "changes nothing")
            .fix("set uri, uriRegexRewrite or authority"),
        _ => {}
    }
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        if !set(&regex.pattern) || !set(&regex.rewrite) {
            report
                .error(
                    format!("{path}.uriRegexRewrite"),
                    "needs both match and rewrite",
                )
                .done();
        } else {
            names::regex(
                regex.pattern.as_deref().unwrap_or_default(),
                &format!("{path}.uriRegexRewrite.match"),
                report,
            );
        }
    }
    let request = edits.and_then(|headers| headers.request.as_ref());
    let names = request
        .into_iter()
        .flat_map(|request| request.set.keys().chain(request.add.keys()));
    if set(&rewrite.authority) && names.into_iter().any(|name| is_authority(name)) {
        report
            .error(
                format!("{path}.authority"),
                "the Host header is set a second time under headers.request",
            )
            .fix("keep only one of them");
    }
}

/// Envoy's conditions, as Istio takes them; numbers are status codes.
const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn retries(retries: &HttpRetry, path: &str, report: &mut Report) {
    if retries.attempts < 0 {
        report
            .error(format!("{path}.attempts"), "is negative")
            .value(retries.attempts)
            .done();
    }
    let conditions = retries.retry_on.as_deref().unwrap_or_default();
    let configured = retries.per_try_timeout.is_some()
        || !conditions.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && configured {
        report
            .error(
                format!("{path}.attempts"),
                "0 switches retries off, yet they are configured",
            )
            .fix("set attempts, such as 2, or remove the rest");
    }
    for condition in conditions
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        let is_code = condition
            .parse::<u16>()
            .is_ok_and(|code| (100..600).contains(&code));
        if !is_code && !RETRY_CONDITIONS.contains(&condition) {
            report
                .error(
                    format!("{path}.retryOn"),
                    "holds a condition Envoy does not know",
                )
                .value(format!("{condition:?}"))
                .fix("use conditions such as 5xx, reset, connect-failure, or status codes");
        }
    }
}

pub(super) fn fault(fault: &HttpFaultInjection, path: &str, report: &mut Report) {
    if fault.delay.is_none() && fault.abort.is_none() {
        report
            .error(path, "injects nothing")
            .fix("add delay or abort");
    }
    if let Some(delay) = &fault.delay {
        let path = format!("{path}.delay");
        if let Some(share) = &delay.percentage {
            names::percent(share.value, &format!("{path}.percentage.value"), report);
        }
        if let Some(percent) = delay.percent.filter(|percent| !(0..=100).contains(percent)) {
            report
                .error(format!("{path}.percent"), "is not between 0 and 100")
                .value(percent)
                .done();
        }
        if delay.exponential_delay.is_some() {
            report
                .error(format!("{path}.exponentialDelay"), "is not supported")
                .fix("use fixedDelay");
        }
        if delay.percent.is_some() {
            report
                .warn(format!("{path}.percent"), "is deprecated")
                .code(Code::Deprecated)
                .fix("use percentage.value");
        } else if delay.percentage.is_none() {
            never_injected(&path, report);
        }
    }
    if let Some(abort) = &fault.abort {
        self::abort(abort, &format!("{path}.abort"), report);
    }
}

fn never_injected(path: &str, report: &mut Report) {
    report
        .warn(path, "has no percentage, so it is never injected")
        .fix("add percentage: {value: 100}");
}

fn abort(abort: &FaultAbort, path: &str, report: &mut Report) {
    match &abort.percentage {
        Some(share) => names::percent(share.value, &format!("{path}.percentage.value"), report),
        None => never_injected(path, report),
    }
    if let Some(code) = abort.http_status {
        status(i64::from(code), &format!("{path}.httpStatus"), report);
    }
    if let Some(text) = &abort.grpc_status
        && grpc_code(text).is_none()
    {
        report
            .error(format!("{path}.grpcStatus"), "is not a gRPC status")
            .value(format!("{text:?}"))
            .fix("use a name such as UNAVAILABLE");
    }
    if abort.http2_error.is_some() {
        report
            .error(format!("{path}.http2Error"), "is not supported")
            .fix("use httpStatus or grpcStatus");
    }
    if abort.http_status.is_none() && abort.grpc_status.is_none() && abort.http2_error.is_none() {
        report
            .warn(path, "names no status, so nothing is aborted")
            .fix("add httpStatus");
    }
}

const METHODS: [&str; 10] = [
    "*", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

pub(super) fn cors(cors: &CorsPolicy, path: &str, report: &mut Report) {
    for (at, origin) in cors.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{at}]");
        let texts = [&origin.exact, &origin.prefix, &origin.regex];
        if texts
            .iter()
            .all(|text| text.as_deref().unwrap_or_default().is_empty())
        {
            report
                .error(&path, "matches no origin")
                .fix("set exact, prefix or regex");
        } else if let Some(regex) = &origin.regex {
            names::regex(regex, &format!("{path}.regex"), report);
        }
    }
    for (at, method) in cors.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            report
                .error(
                    format!("{path}.allowMethods[{at}]"),
                    "is not an HTTP method",
                )
                .value(format!("{method:?}"))
                .done();
        }
    }
    for (list, name) in [
        (&cors.allow_headers, "allowHeaders"),
        (&cors.expose_headers, "exposeHeaders"),
    ] {
        for (at, header) in list.iter().enumerate().filter(|(_, header)| *header != "*") {
            names::header_name(header, &format!("{path}.{name}[{at}]"), report);
        }
    }
    if cors.max_age.is_some_and(|age| age.0.subsec_nanos() != 0) {
        report
            .error(format!("{path}.maxAge"), "must be whole seconds")
            .done();
    }
    if !cors.allow_origin.is_empty() {
        report
            .warn(format!("{path}.allowOrigin"), "is deprecated")
            .code(Code::Deprecated)
            .fix("use allowOrigins");
    }
}
