//! Filters of routes and of their backends.

use std::time::Duration;

use malla_model::matching::StringMatch;
use malla_model::route::{
    Cors, HeaderEdit, HeaderOps, HttpAction, HttpRoute, Mirror, PerMillion, Redirect, RedirectPath,
    RedirectPort, Rewrite,
};

use super::backends;
use super::listeners::Why;
use super::rules::{Context, pattern, unsupported};
use crate::gateway_api::types::{
    CorsFilter, HeaderFilter, HttpFilter, MirrorFilter, NameValue, PathModifier, RedirectFilter,
    RewriteFilter,
};

/// How long a browser may remember, where nothing is said.
const MAX_AGE: u32 = 5;

/// Applies a rule's filters to its route.
pub(super) fn apply(
    filters: &[HttpFilter],
    route: &mut HttpRoute,
    cx: &mut Context<'_>,
) -> Result<(), Why> {
    for filter in filters {
        match filter.kind.as_str() {
            "RequestHeaderModifier" | "ResponseHeaderModifier" => {
                headers(filter, &mut route.headers)
            }
            "RequestRedirect" => {
                let written = filter.request_redirect.clone().unwrap_or_default();
                route.action = HttpAction::Redirect(redirect(&written)?);
            }
            "URLRewrite" => {
                let written = filter.url_rewrite.clone().unwrap_or_default();
                route.rewrite = Some(rewrite(&written)?);
            }
            "RequestMirror" => {
                let written = filter.request_mirror.clone().unwrap_or_default();
                route.mirrors.extend(mirror(&written, cx)?);
            }
            "CORS" => route.cors = Some(cors(&filter.cors.clone().unwrap_or_default())?),
            other => {
                return Err((
                    "IncompatibleFilters",
                    format!("filter {other} is not supported"),
                ));
            }
        }
    }
    if matches!(route.action, HttpAction::Redirect(_)) && route.rewrite.is_some() {
        return Err((
            "IncompatibleFilters",
            "a redirect cannot be rewritten".to_owned(),
        ));
    }
    Ok(())
}

/// The filters of one backend: changes of headers, and nothing else.
pub(super) fn of_backend(filters: &[HttpFilter]) -> Result<HeaderOps, Why> {
    let mut out = HeaderOps::default();
    for filter in filters {
        match filter.kind.as_str() {
            "RequestHeaderModifier" | "ResponseHeaderModifier" => headers(filter, &mut out),
            other => {
                return Err((
                    "IncompatibleFilters",
                    format!("filter {other} of a backend is not supported"),
                ));
            }
        }
    }
    Ok(out)
}

fn headers(filter: &HttpFilter, ops: &mut HeaderOps) {
    if let Some(written) = &filter.request_header_modifier {
        edit(written, &mut ops.request);
    }
    if let Some(written) = &filter.response_header_modifier {
        edit(written, &mut ops.response);
    }
}

fn edit(written: &HeaderFilter, edit: &mut HeaderEdit) {
    let pairs = |list: &[NameValue]| {
        let pairs = list.iter();
        pairs
            .map(|pair| (pair.name.as_str().into(), pair.value.as_str().into()))
            .collect::<Vec<_>>()
    };
    edit.set.extend(pairs(&written.set));
    edit.add.extend(pairs(&written.add));
    edit.remove
        .extend(written.remove.iter().map(|name| name.as_str().into()));
}

fn redirect(written: &RedirectFilter) -> Result<Redirect, Why> {
    let path = match &written.path {
        None => None,
        Some(path) => Some(match new_path(path)? {
            NewPath::Full(text) => RedirectPath::Full(text.into()),
            NewPath::Prefix(text) => RedirectPath::Prefix(text.into()),
        }),
    };
    let port = match (written.port, &written.scheme) {
        (Some(port), _) => RedirectPort::Number(port),
        // Another scheme has another port; without one, the one that was asked.
        (None, Some(_)) => RedirectPort::ProtocolDefault,
        (None, None) => RedirectPort::RequestPort,
    };
    let code = written.status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&code) {
        return Err(unsupported(&format!("statusCode {code} is no redirect")));
    }
    Ok(Redirect {
        code,
        path,
        authority: written.hostname.as_deref().map(Into::into),
        scheme: written.scheme.as_deref().map(Into::into),
        port: Some(port),
    })
}

enum NewPath<'a> {
    Full(&'a str),
    Prefix(&'a str),
}

fn new_path(written: &PathModifier) -> Result<NewPath<'_>, Why> {
    match (
        written.kind.as_str(),
        &written.replace_full_path,
        &written.replace_prefix_match,
    ) {
        ("ReplaceFullPath", Some(text), _) => Ok(NewPath::Full(text)),
        ("ReplacePrefixMatch", _, Some(text)) => {
            Ok(NewPath::Prefix(if text.is_empty() { "/" } else { text }))
        }
        (other, ..) => Err(unsupported(&format!(
            "path type {other:?} lacks its value or is not supported"
        ))),
    }
}

fn rewrite(written: &RewriteFilter) -> Result<Rewrite, Why> {
    let mut out = Rewrite {
        authority: written.hostname.as_deref().map(Into::into),
        ..Rewrite::default()
    };
    match written.path.as_ref().map(new_path).transpose()? {
        None => {}
        Some(NewPath::Prefix(text)) => out.uri = Some(text.into()),
        Some(NewPath::Full(text)) => {
            // A backslash would refer to a part of what matched.
            out.regex = Some((pattern("/.*")?, text.replace('\\', "\\\\").into()));
        }
    }
    Ok(out)
}

fn mirror(written: &MirrorFilter, cx: &mut Context<'_>) -> Result<Option<Mirror>, Why> {
    let share = match (written.percent, &written.fraction) {
        (Some(_), Some(_)) => return Err(unsupported("requestMirror: either percent or fraction")),
        (Some(percent), None) => PerMillion::from_percent(f64::from(percent)),
        (None, Some(fraction)) => {
            let denominator = fraction.denominator.unwrap_or(100).max(1);
            PerMillion::from_percent(f64::from(fraction.numerator) * 100.0 / f64::from(denominator))
        }
        (None, None) => PerMillion::ALL,
    };
    // Copies for nobody are not made.
    let destination = backends::found(&written.backend_ref, cx);
    Ok(destination.map(|destination| Mirror { destination, share }))
}

fn cors(written: &CorsFilter) -> Result<Cors, Why> {
    let texts = |list: &[String]| list.iter().map(|text| text.as_str().into()).collect();
    let origins: Result<Vec<StringMatch>, Why> = written
        .allow_origins
        .iter()
        .map(|origin| origin_match(origin))
        .collect();
    Ok(Cors {
        allow_origins: origins?,
        allow_methods: texts(&written.allow_methods),
        allow_headers: texts(&written.allow_headers),
        expose_headers: texts(&written.expose_headers),
        max_age: Some(Duration::from_secs(
            written.max_age.unwrap_or(MAX_AGE).into(),
        )),
        allow_credentials: written.allow_credentials,
        ignore_unmatched_preflights: true,
    })
}

/// `*` alone is any origin; within one it stands for anything.
fn origin_match(origin: &str) -> Result<StringMatch, Why> {
    if origin == "*" {
        return Ok(StringMatch::Regex(pattern(".*")?));
    }
    if !origin.contains('*') {
        return Ok(StringMatch::Exact(origin.into()));
    }
    let parts: Vec<String> = origin.split('*').map(escaped).collect();
    Ok(StringMatch::Regex(pattern(&parts.join(".*"))?))
}

/// The text as an expression that matches nothing but it.
fn escaped(text: &str) -> String {
    let special = |c: char| !c.is_ascii_alphanumeric() && c.is_ascii();
    let mut out = String::new();
    for c in text.chars() {
        if special(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
