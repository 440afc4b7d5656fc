//! Names and small values that many kinds hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use malla_model::matching::Pattern;

use crate::istio::common::{StringMatch, WorkloadSelector};
use crate::lower::routed_claim;
use crate::report::Report;

/// Longest regular expression that Istio lets pass.
const LONGEST_REGEX: usize = 1024;

/// A label of a DNS name, as Istio reads RFC 1123: upper case is allowed.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What is wrong with a host, and what to write instead.
pub(super) struct WrongHost {
    reason: String,
    fix: Option<String>,
}

/// A DNS name, `*`, or a name whose first label is or begins with `*`.
pub(super) fn wildcard_domain(text: &str) -> Result<(), WrongHost> {
    let wrong = |reason: &str, fix: Option<String>| {
        Err(WrongHost {
            reason: reason.to_owned(),
            fix,
        })
    };
    if text.is_empty() {
        return wrong("is empty", None);
    }
    if text.len() > 255 {
        return wrong(
            "is longer than the 255 characters a DNS name can have",
            None,
        );
    }
    if text.contains("://") {
        let bare = text.split("://").nth(1).unwrap_or_default();
        return wrong(
            "is a URL",
            Some(format!(
                "write only the host: {:?}",
                bare.trim_end_matches('/')
            )),
        );
    }
    let mut labels = text.split('.');
    let first = labels.next().unwrap_or_default();
    let rest: Vec<&str> = labels.collect();
    if rest.iter().any(|label| label.contains('*')) {
        let fix = if first == "*" && rest.iter().all(|label| *label == "*") {
            "use \"*\" for every host".to_owned()
        } else {
            let tail: Vec<&str> = rest
                .iter()
                .rev()
                .take_while(|l| !l.contains('*'))
                .copied()
                .collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            match tail[..] {
                [] => "use \"*\" for every host, or write the whole name".to_owned(),
                _ => format!("use \"*.{}\", or write the whole name", tail.join(".")),
            }
        };
        return wrong("may hold a wildcard only as its first label", Some(fix));
    }
    let first_is_good = first == "*"
        || is_dns_label(
            first
                .strip_prefix('*')
                .map_or(first, |l| l.trim_start_matches('-')),
        );
    if !first_is_good {
        return wrong(
            "is not a host name",
            Some("use letters, digits, - and . such as shop.example.com".into()),
        );
    }
    if rest
        .last()
        .is_some_and(|tld| !tld.is_empty() && tld.bytes().all(|b| b.is_ascii_digit()))
    {
        return wrong("ends in a number, as no host name does", None);
    }
    for (at, label) in rest.iter().enumerate() {
        let trailing_dot = at + 1 == rest.len() && label.is_empty();
        if !trailing_dot && !is_dns_label(label) {
            return wrong(
                "is not a host name",
                Some("use letters, digits, - and . such as shop.example.com".into()),
            );
        }
    }
    Ok(())
}

/// Reports a host that is no wildcard domain.
pub(super) fn host(text: &str, path: &str, report: &mut Report) -> bool {
    let Err(wrong) = wildcard_domain(text) else {
        return true;
    };
    let finding = report.error(path, wrong.reason).value(format!("{text:?}"));
    match wrong.fix {
        Some(fix) => finding.fix(fix),
        None => finding.done(),
    }
    false
}

/// A host, or an IP address.
pub(super) fn host_or_ip(text: &str, path: &str, report: &mut Report) -> bool {
    text.parse::<IpAddr>().is_ok() || host(text, path, report)
}

/// A DNS name without wildcards.
pub(super) fn is_fqdn(text: &str) -> bool {
    !text.contains('*') && wildcard_domain(text).is_ok()
}

/// `namespace/host`, `./host`, `*/host` or `host` of a Gateway's server.
pub(super) fn server_host(text: &str, path: &str, report: &mut Report) {
    let name = match text.split_once('/') {
        None => text,
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | ".") && !is_dns_label(namespace) {
                report
                    .error(path, "does not begin with a namespace")
                    .value(format!("{text:?}"))
                    .fix("write HOST, NAMESPACE/HOST, ./HOST or */HOST");
            }
            name
        }
    };
    if name.parse::<IpAddr>().is_err() {
        host(name, path, report);
    }
}

/// A port number, 1 to 65535.
pub(super) fn port(number: u32, path: &str, report: &mut Report) {
    if !(1..=65535).contains(&number) {
        report
            .error(path, "must be a port, 1 to 65535")
            .value(number)
            .done();
    }
}

/// Labels a selector or match may ask for.
pub(super) fn labels(labels: &BTreeMap<String, String>, path: &str, report: &mut Report) {
    for (key, value) in labels {
        let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
        if !is_label_text(name) || name.is_empty() {
            report
                .error(format!("{path}.{key}"), "is not a label's key")
                .done();
        }
        if !is_label_text(value) {
            report
                .error(format!("{path}.{key}"), "is not a label's value")
                .value(format!("{value:?}"))
                .done();
        }
    }
}

fn is_label_text(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && edge(text.chars().next())
        && edge(text.chars().last())
}

/// A policy's workload selector.
pub(super) fn selector(selector: Option<&WorkloadSelector>, path: &str, report: &mut Report) {
    let Some(selector) = selector else { return };
    for (key, value) in &selector.match_labels {
        if key.contains('*') || value.contains('*') {
            report
                .error(
                    format!("{path}.matchLabels.{key}"),
                    "wildcards are not supported in selectors",
                )
                .fix("name the label's whole value");
        }
    }
    if selector.match_labels.is_empty() {
        report
            .warn(path, "has no labels, so it selects the whole namespace")
            .fix("add matchLabels, or remove the selector");
    }
}

/// Namespaces an object is exported to.
pub(super) fn export_to(
    list: &[String],
    own_namespace: &str,
    may_be_nobody: bool,
    report: &mut Report,
) {
    let mut seen = BTreeSet::new();
    for (at, entry) in list.iter().enumerate() {
        let path = format!("spec.exportTo[{at}]");
        let key = if entry == "." { own_namespace } else { entry };
        if !seen.insert(key) {
            report
                .error(&path, "stands twice")
                .value(format!("{entry:?}"))
                .done();
        }
        let known = match entry.as_str() {
            "." | "*" => true,
            "~" => may_be_nobody,
            name => is_dns_label(name),
        };
        if !known {
            report
                .error(&path, "is not a namespace")
                .value(format!("{entry:?}"))
                .fix("write a namespace's name, \".\" for this one or \"*\" for all");
        }
    }
    for (mark, meaning) in [("*", "everybody"), ("~", "nobody")] {
        if list.len() > 1 && list.iter().any(|entry| entry == mark) {
            report
                .error(
                    "spec.exportTo",
                    format!("{mark:?} is {meaning}, so it stands alone"),
                )
                .fix(format!("write only [{mark:?}], or remove it"));
        }
    }
}

/// Gateways a VirtualService or match names.
pub(super) fn gateway_names(list: &[String], path: &str, report: &mut Report) {
    for (at, name) in list.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let good = match name.split_once('/') {
            Some((namespace, name)) => {
                (namespace == "." || is_dns_label(namespace)) && is_dns_label(name)
            }
            None => is_fqdn(name),
        };
        if !good {
            report
                .error(&path, "is not a Gateway's name")
                .value(format!("{name:?}"))
                .fix("write NAME, NAMESPACE/NAME or mesh");
        } else if let (None, Some((gateway, rest))) = (name.split_once('/'), name.split_once('.')) {
            let namespace = rest.split('.').next().unwrap_or_default();
            report
                .warn(&path, "an old form of a Gateway's name")
                .value(format!("{name:?}"))
                .fix(format!("write {namespace}/{gateway}"));
        }
    }
}

/// A regular expression.
pub(super) fn regex(text: &str, path: &str, report: &mut Report) {
    if text.is_empty() {
        report.error(path, "is empty").done();
    } else if text.len() > LONGEST_REGEX {
        report
            .error(path, format!("is longer than {LONGEST_REGEX} characters"))
            .done();
    } else if let Err(error) = Pattern::new(text) {
        let why = error.to_string();
        let why = why
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .trim_start_matches("error: ");
        report
            .error(path, format!("is not a regular expression ({why})"))
            .value(format!("{text:?}"))
            .fix("write it in RE2's syntax, https://github.com/google/re2/wiki/Syntax");
    }
}

/// The regular expression of a match, if it has one; `*` is Istio's "present".
pub(super) fn string_match(value: &StringMatch, path: &str, report: &mut Report) {
    if let Some(text) = &value.regex
        && text != "*"
    {
        regex(text, &format!("{path}.regex"), report);
    }
}

/// A header that a route matches on.
pub(super) fn header_name(name: &str, path: &str, report: &mut Report) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_claim = routed_claim(name).is_some();
    if !is_claim && (name.is_empty() || !name.bytes().all(plain)) {
        report
            .error(path, "is not a header's name")
            .value(format!("{name:?}"))
            .done();
    }
}

/// A header value that Envoy formats: `%` begins a command, `%%` is a percent sign.
pub(super) fn header_value(value: &str, path: &str, report: &mut Report) {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        report.error(path, "holds a control character").done();
    }
    // An even number of signs closes what it opens, whether it is a command or `%%`.
    if value.matches('%').count() % 2 == 1 {
        report
            .error(path, "holds a single %")
            .value(format!("{value:?}"))
            .fix("write %% for a percent sign");
    }
}

/// A share in percent.
pub(super) fn percent(value: f64, path: &str, report: &mut Report) {
    let tiny = value > 0.0 && value < 0.0001;
    if !(0.0..=100.0).contains(&value) || tiny {
        report
            .error(path, "is neither 0 nor between 0.0001 and 100")
            .value(value)
            .done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        let mut report = Report::default();
        host(text, "spec.hosts[0]", &mut report);
        let got = report.errors.first().map(ToString::to_string);
        assert_eq!(got.as_deref(), want, "{text}");
    }

    #[test]
    fn hosts_are_checked_and_the_fix_is_named() {
        for good in [
            "*",
            "*.example.com",
            "*example.com",
            "a",
            "a.b.c",
            "A.example.com.",
            "x1",
        ] {
            check(good, None);
        }
        check(
            "*.*",
            Some(
                "spec.hosts[0]: \"*.*\": may hold a wildcard only as its first label; use \"*\" for every host",
            ),
        );
        check(
            "a.*.example.com",
            Some(
                "spec.hosts[0]: \"a.*.example.com\": may hold a wildcard only as its first label; use \"*.example.com\", or write the whole name",
            ),
        );
        check("", Some("spec.hosts[0]: \"\": is empty"));
        check(
            "a.123",
            Some("spec.hosts[0]: \"a.123\": ends in a number, as no host name does"),
        );
        check(
            "http://a.example.com/",
            Some(
                "spec.hosts[0]: \"http://a.example.com/\": is a URL; write only the host: \"a.example.com\"",
            ),
        );
        check(
            "a..b",
            Some(
                "spec.hosts[0]: \"a..b\": is not a host name; use letters, digits, - and . such as shop.example.com",
            ),
        );
    }

    #[test]
    fn a_single_percent_sign_is_refused() {
        for (value, errors) in [
            ("100%%", 0),
            ("%START_TIME%", 0),
            ("abc%123", 1),
            ("%A%%", 1),
            ("a\nb", 1),
        ] {
            let mut report = Report::default();
            header_value(value, "x", &mut report);
            assert_eq!(report.errors.len(), errors, "{value}");
        }
    }
}
