//! Syntax of names, label keys, label values and annotations, with Kubernetes' explanations.
//!
//! Each `*_problems` function returns the explanations of `k8s.io/apimachinery/pkg/util/validation`; empty means valid.

use serde_json::Value;

use crate::error::FieldError;

/// Longest DNS-1123 label (RFC 1123).
const MAX_LABEL: usize = 63;
/// Longest DNS-1123 subdomain.
const MAX_SUBDOMAIN: usize = 253;
/// Kubernetes' limit for all annotations of an object together.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// Problems of a DNS-1123 label (namespaces, container names).
pub fn dns_label_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > MAX_LABEL {
        problems.push(too_long(MAX_LABEL));
    }
    if !is_label(name) {
        problems.push(DNS_LABEL.to_owned());
    }
    problems
}

/// Problems of a DNS-1123 subdomain (most object names).
pub fn dns_subdomain_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > MAX_SUBDOMAIN {
        problems.push(too_long(MAX_SUBDOMAIN));
    }
    if !name.split('.').all(is_label) {
        problems.push(DNS_SUBDOMAIN.to_owned());
    }
    problems
}

/// Problems of a DNS-1035 label (services).
pub fn dns_1035_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > MAX_LABEL {
        problems.push(too_long(MAX_LABEL));
    }
    if !is_label(name) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        problems.push(DNS_1035.to_owned());
    }
    problems
}

/// Problems of a name that is only a path segment (roles, bindings).
pub fn path_segment_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name == "." || name == ".." {
        problems.push(format!("may not be '{name}'"));
    }
    for symbol in ["/", "%"] {
        if name.contains(symbol) {
            problems.push(format!("may not contain '{symbol}'"));
        }
    }
    problems
}

/// Problems of a label or annotation key: `[prefix/]name`.
pub fn label_key_problems(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match key.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", _)) => return vec!["prefix part must be non-empty".to_owned()],
        Some((prefix, name)) => {
            problems.extend(
                dns_subdomain_problems(prefix)
                    .into_iter()
                    .map(|problem| format!("prefix part {problem}")),
            );
            name
        }
        None => key,
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL {
        problems.push(format!("name part {}", too_long(MAX_LABEL)));
    }
    if !is_qualified(name) {
        problems.push(QUALIFIED_NAME.to_owned());
    }
    problems
}

/// Problems of a label value.
pub fn label_value_problems(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > MAX_LABEL {
        problems.push(too_long(MAX_LABEL));
    }
    if !value.is_empty() && !is_qualified(value) {
        problems.push(LABEL_VALUE.to_owned());
    }
    problems
}

/// Checks a label map.
pub fn check_labels(labels: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(
            label_key_problems(key)
                .into_iter()
                .map(|problem| FieldError::invalid(path, key.as_str(), problem)),
        );
        match value.as_str() {
            Some(text) => errors.extend(
                label_value_problems(text)
                    .into_iter()
                    .map(|problem| FieldError::invalid(path, text, problem)),
            ),
            None => errors.push(FieldError::invalid(
                path,
                value.clone(),
                format!("value of {key:?} must be a string"),
            )),
        }
    }
}

/// Checks an annotation map: keys as labels' (in lower case), values of any text, all together at most 256 KiB.
pub fn check_annotations(annotations: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let problems = label_key_problems(&key.to_lowercase());
        errors.extend(
            problems
                .into_iter()
                .map(|problem| FieldError::invalid(path, key.as_str(), problem)),
        );
        match value.as_str() {
            Some(text) => size += key.len() + text.len(),
            None => errors.push(FieldError::invalid(
                path,
                value.clone(),
                format!("value of {key:?} must be a string"),
            )),
        }
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long(
            path,
            format!("may not be more than {MAX_ANNOTATIONS_BYTES} bytes"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        dns_1035_problems, dns_label_problems, dns_subdomain_problems, label_key_problems,
        label_value_problems,
    };

    #[test]
    fn names_follow_the_dns_rules() {
        let check = |problems: Vec<String>, valid: bool, what: &str| {
            assert_eq!(problems.is_empty(), valid, "{what}: {problems:?}")
        };
        for (name, valid) in [
            ("a", true),
            ("a-b", true),
            ("1a", true),
            ("-a", false),
            ("A", false),
            ("", false),
            ("a.b", false),
        ] {
            check(dns_label_problems(name), valid, name);
        }
        for (name, valid) in [
            ("a.b-c.d", true),
            ("a..b", false),
            ("a.", false),
            ("a_b", false),
        ] {
            check(dns_subdomain_problems(name), valid, name);
        }
        check(dns_1035_problems("1a"), false, "1a");
        check(dns_label_problems(&"a".repeat(64)), false, "64 letters");
    }

    #[test]
    fn labels_follow_the_qualified_name_rules() {
        for (key, valid) in [
            ("a", true),
            ("x.io/A_b", true),
            ("/a", false),
            ("x/", false),
            ("X.io/a", false),
            ("a/b/c", false),
            ("", false),
        ] {
            assert_eq!(label_key_problems(key).is_empty(), valid, "{key}");
        }
        for (value, valid) in [("", true), ("v1.2", true), ("-a", false), ("a b", false)] {
            assert_eq!(label_value_problems(value).is_empty(), valid, "{value}");
        }
    }
}
