//! Field selectors: `metadata.name=a,status.phase!=Failed`.

use serde_json::Value;

use super::SelectorError;

/// Requirements on fields, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses `metadata.name=a,status.phase!=Failed`; `\,`, `\=` and `\\` stand for themselves in values.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            let Some((at, length, equal)) = field_operator(&term) else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let path = term.get(..at).unwrap_or_default().trim().to_owned();
            let value = unescape(term.get(at + length..).unwrap_or_default())?;
            requirements.push(FieldRequirement { path, equal, value });
        }
        Ok(Self { requirements })
    }

    /// Fails with Kubernetes' text for a path neither `metadata.name`, `metadata.namespace` nor in `allowed`.
    pub fn check(&self, allowed: &[String]) -> Result<(), SelectorError> {
        let known = |path: &str| {
            matches!(path, "metadata.name" | "metadata.namespace")
                || allowed.iter().any(|each| each == path)
        };
        match self
            .requirements
            .iter()
            .find(|requirement| !known(&requirement.path))
        {
            Some(requirement) => Err(SelectorError(format!(
                "field label not supported: {}",
                requirement.path
            ))),
            None => Ok(()),
        }
    }

    /// The value required for a path, e.g. `metadata.name`, to turn a list into a get.
    pub fn required(&self, path: &str) -> Option<&str> {
        let matching =
            |requirement: &&FieldRequirement| requirement.equal && requirement.path == path;
        self.requirements
            .iter()
            .find(matching)
            .map(|requirement| requirement.value.as_str())
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether this object matches. An absent field is the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|requirement| {
            let shown = |field: &&(&str, &[&str], &str)| field.0 == requirement.path;
            if let Some((_, path, absent)) = SPECIAL.iter().find(shown) {
                let found = path.iter().try_fold(object, |value, step| value.get(step));
                let text = found.map_or_else(|| (*absent).to_owned(), plain);
                return (text == requirement.value) == requirement.equal;
            }
            let found = requirement
                .path
                .split('.')
                .try_fold(object, |value, step| value.get(step));
            let text = found.map(plain).unwrap_or_default();
            (text == requirement.value) == requirement.equal
        })
    }
}

/// Fields that are shown otherwise than they are stored: (selector, path, text if absent).
const SPECIAL: &[(&str, &[&str], &str)] = &[
    ("spec.unschedulable", &["spec", "unschedulable"], "false"),
    ("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
    ("status.replicas", &["status", "replicas"], "0"),
    ("source", &["source", "component"], ""),
];

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Splits at commas that are not escaped; escapes stay.
fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for symbol in text.chars() {
        if symbol == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(symbol);
        }
        escaped = symbol == '\\' && !escaped;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Position, length and sense of the first operator.
fn field_operator(term: &str) -> Option<(usize, usize, bool)> {
    let at = term.find(['=', '!'])?;
    let rest = term.get(at..)?;
    if rest.starts_with("!=") {
        Some((at, 2, false))
    } else if rest.starts_with("==") {
        Some((at, 2, true))
    } else if rest.starts_with('=') {
        Some((at, 1, true))
    } else {
        None
    }
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut symbols = value.chars();
    while let Some(symbol) = symbols.next() {
        match symbol {
            '\\' => match symbols.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                _ => {
                    return Err(SelectorError(format!(
                        "invalid escape sequence in field selector value {value:?}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "unescaped {symbol:?} in field selector value {value:?}"
                )));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}
