//! One HTTP route of a VirtualService.

use super::http_action;
use super::names;
use super::virtual_service::{destination, weights};
use crate::analyze::Code;
use crate::istio::common::StringMatch;
use crate::istio::http_match::HttpMatchRequest;
use crate::istio::virtual_service::HttpRoute;
use crate::report::Report;

pub(super) fn check(
    route: &HttpRoute,
    path: &str,
    in_delegate: bool,
    in_mesh: bool,
    report: &mut Report,
) {
    actions(route, path, in_delegate, report);
    let delegating = in_delegate || route.delegate.is_some();
    for (at, item) in route.matches.iter().enumerate() {
        http_match(
            item,
            &format!("{path}.match[{at}]"),
            delegating,
            in_mesh,
            report,
        );
    }
    for (at, item) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{at}]");
        destination(&item.destination, &format!("{path}.destination"), report);
        http_action::headers(item.headers.as_ref(), &format!("{path}.headers"), report);
    }
    weights(
        route.route.iter().map(|item| item.weight),
        &format!("{path}.route"),
        report,
    );
    http_action::headers(route.headers.as_ref(), &format!("{path}.headers"), report);
    if let Some(redirect) = &route.redirect {
        http_action::redirect(redirect, &format!("{path}.redirect"), report);
    }
    if let Some(direct) = &route.direct_response {
        http_action::direct_response(direct, &format!("{path}.directResponse"), report);
    }
    if let Some(rewrite) = &route.rewrite {
        http_action::rewrite(
            rewrite,
            route.headers.as_ref(),
            &format!("{path}.rewrite"),
            report,
        );
    }
    if let Some(retries) = &route.retries {
        http_action::retries(retries, &format!("{path}.retries"), report);
    }
    if let Some(fault) = &route.fault {
        http_action::fault(fault, &format!("{path}.fault"), report);
    }
    mirrors(route, path, report);
    if let Some(cors) = &route.cors_policy {
        http_action::cors(cors, &format!("{path}.corsPolicy"), report);
    }
}

/// Exactly one of route, redirect, directResponse, delegate.
fn actions(route: &HttpRoute, path: &str, in_delegate: bool, report: &mut Report) {
    if let Some(delegate) = &route.delegate {
        if in_delegate {
            report
                .error(
                    format!("{path}.delegate"),
                    "a delegate cannot delegate further",
                )
                .done();
        }
        if delegate.name.as_deref().unwrap_or_default().is_empty() {
            report
                .error(format!("{path}.delegate.name"), "is required")
                .done();
        }
        for (set, name) in [
            (!route.route.is_empty(), "route"),
            (route.redirect.is_some(), "redirect"),
        ] {
            if set {
                report
                    .error(
                        format!("{path}.{name}"),
                        "stands beside delegate, which already says where requests go",
                    )
                    .fix(format!("remove {name} or delegate"));
            }
        }
        return;
    }
    let chosen = [
        (!route.route.is_empty(), "route"),
        (route.redirect.is_some(), "redirect"),
        (route.direct_response.is_some(), "directResponse"),
    ];
    let names: Vec<&str> = chosen
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| *name)
        .collect();
    match names[..] {
        [] => report
            .error(path, "says nowhere for requests to go")
            .fix("add route, redirect or directResponse beside match"),
        [_] => {}
        _ => report
            .error(path, format!("holds {} at once", names.join(" and ")))
            .fix("keep only one of them"),
    }
    if route.redirect.is_some() {
        for (set, name) in [
            (route.fault.is_some(), "fault"),
            (route.rewrite.is_some(), "rewrite"),
        ] {
            if set {
                report
                    .error(format!("{path}.{name}"), "cannot stand beside redirect")
                    .done();
            }
        }
    }
}

fn http_match(
    item: &HttpMatchRequest,
    path: &str,
    delegating: bool,
    in_mesh: bool,
    report: &mut Report,
) {
    let maps = [
        ("headers", &item.headers),
        ("withoutHeaders", &item.without_headers),
        ("queryParams", &item.query_params),
    ];
    let fields = [
        ("uri", &item.uri),
        ("scheme", &item.scheme),
        ("method", &item.method),
        ("authority", &item.authority),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            one_match(value, &format!("{path}.{name}"), delegating, report);
        }
    }
    for (name, map) in maps {
        for (key, value) in map {
            let path = format!("{path}.{name}.{key}");
            one_match(value, &path, delegating, report);
            if name == "queryParams" {
                continue;
            }
            names::header_name(key, &path, report);
            if in_mesh && key.starts_with("@request.auth.claims") {
                report
                    .error(&path, "routing by JWT claims is only for gateways")
                    .done();
            }
        }
    }
    if let Some(number) = item.port.filter(|number| *number != 0) {
        names::port(number, &format!("{path}.port"), report);
    }
    names::labels(&item.source_labels, &format!("{path}.sourceLabels"), report);
    names::gateway_names(&item.gateways, &format!("{path}.gateways"), report);
    if let Some(namespace) = item
        .source_namespace
        .as_deref()
        .filter(|name| !name.is_empty())
        && !names::is_dns_label(namespace)
    {
        report
            .error(
                format!("{path}.sourceNamespace"),
                "is not a namespace's name",
            )
            .value(format!("{namespace:?}"))
            .done();
    }
}

fn one_match(value: &StringMatch, path: &str, delegating: bool, report: &mut Report) {
    names::string_match(value, path, report);
    if delegating && value.regex.is_some() {
        report
            .error(
                format!("{path}.regex"),
                "regular expressions are not supported where routes delegate",
            )
            .fix("use exact or prefix");
    }
}

fn mirrors(route: &HttpRoute, path: &str, report: &mut Report) {
    if let Some(mirror) = &route.mirror {
        destination(mirror, &format!("{path}.mirror"), report);
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        report
            .error(path, "only one of mirror, mirrors may be set")
            .done();
    }
    for (at, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{at}]");
        destination(&mirror.destination, &format!("{path}.destination"), report);
        if let Some(share) = &mirror.percentage {
            names::percent(share.value, &format!("{path}.percentage.value"), report);
        }
    }
    if let Some(share) = &route.mirror_percentage {
        names::percent(
            share.value,
            &format!("{path}.mirrorPercentage.value"),
            report,
        );
    }
    for (value, name) in [
        (route.mirror_percent, "mirrorPercent"),
        (route.mirror_percent_snake, "mirror_percent"),
    ] {
        if let Some(percent) = value {
            names::percent(f64::from(percent), &format!("{path}.{name}"), report);
            report
                .warn(format!("{path}.{name}"), "is deprecated")
                .code(Code::Deprecated)
                .fix("use mirrorPercentage.value");
        }
    }
}
