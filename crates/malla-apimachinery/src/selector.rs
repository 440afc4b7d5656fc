//! Label and field selectors, as in `?labelSelector=` and `?fieldSelector=`, and the object form of label selectors.
//!
//! Invariant: a parsed selector holds only syntactically valid label keys and values, so printing and parsing it again
//! gives the same selector.

use std::fmt;

use serde_json::Value;
use thiserror::Error;

use crate::meta::labels::{label_key_problems, label_value_problems};

/// A selector that does not parse or asks for an unsupported field (HTTP 400).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

/// Requirements on labels, all of which must hold. The empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the string form: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>3`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = split_outside_parentheses(text)?
            .into_iter()
            .map(parse_requirement)
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    /// Reads the object form `{matchLabels, matchExpressions}` (`metav1.LabelSelector`).
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let mut all = Self::from_map(selector.get("matchLabels").unwrap_or(&Value::Null));
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |field: &str| {
                expression
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let values: Vec<String> = strings(expression.get("values"));
            let test = match text("operator") {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => {
                    return Err(SelectorError(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            if matches!(&test, Test::In(values) | Test::NotIn(values) if values.is_empty()) {
                return Err(SelectorError(
                    "for 'in', 'notin' operators, values set can't be empty".to_owned(),
                ));
            }
            all.requirements.push(checked(text("key"), test)?);
        }
        Ok(all)
    }

    /// Reads a plain map as in `Service.spec.selector`; values that are not strings never match.
    pub fn from_map(labels: &Value) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            test: Test::In(value.as_str().map(str::to_owned).into_iter().collect()),
        };
        let requirements = labels
            .as_object()
            .into_iter()
            .flatten()
            .map(requirement)
            .collect();
        Self { requirements }
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether these labels (a JSON map, or absent) match.
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels
                .and_then(|labels| labels.get(&requirement.key))
                .and_then(Value::as_str);
            requirement.test.holds(value)
        })
    }

    /// Whether `metadata.labels` of this object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(object.pointer("/metadata/labels"))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let is_one_of =
            |values: &[String]| value.is_some_and(|value| values.iter().any(|each| each == value));
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => is_one_of(values),
            Self::NotIn(values) => !is_one_of(values),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Greater(bound) => number().is_some_and(|number| number > *bound),
            Self::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values.concat())?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) if values.len() == 1 => {
                    write!(f, "{key}!={}", values.concat())?
                }
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Exists => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
                Test::Greater(bound) => write!(f, "{key}>{bound}")?,
                Test::Less(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

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
            let found = requirement
                .path
                .split('.')
                .try_fold(object, |value, step| value.get(step));
            let text = match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (text == requirement.value) == requirement.equal
        })
    }
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, SelectorError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, symbol) in text.char_indices() {
        match symbol {
            '(' if inside => return Err(unparsable("found '(', expected: ',', ')' or identifier")),
            '(' => inside = true,
            ')' if !inside => {
                return Err(unparsable("found ')', expected: ',' or 'end of string'"));
            }
            ')' => inside = false,
            ',' if !inside => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(unparsable("found '', expected: ',' or ')'"));
    }
    parts.push(text.get(start..).unwrap_or_default());
    Ok(parts)
}

fn unparsable(detail: impl fmt::Display) -> SelectorError {
    SelectorError(format!("unable to parse requirement: {detail}"))
}

fn parse_requirement(text: &str) -> Result<Requirement, SelectorError> {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return checked(key.trim(), Test::Absent);
    }
    if let Some(at) = text.find(['=', '!', '<', '>']) {
        let (key, rest) = text.split_at(at);
        let (operator, value) = ["==", "!=", "=", "<", ">"]
            .iter()
            .find_map(|operator| {
                rest.strip_prefix(operator)
                    .map(|value| (*operator, value.trim()))
            })
            .ok_or_else(|| {
                unparsable(format_args!(
                    "found '{rest}', expected: in, notin, =, ==, !=, gt, lt"
                ))
            })?;
        let bound = || {
            value.parse().map_err(|_| {
                unparsable(format_args!(
                    "for 'Gt', 'Lt' operators, the value must be an integer, found {value:?}"
                ))
            })
        };
        let test = match operator {
            "!=" => Test::NotIn(vec![value.to_owned()]),
            "<" => Test::Less(bound()?),
            ">" => Test::Greater(bound()?),
            _ => Test::In(vec![value.to_owned()]),
        };
        return checked(key.trim(), test);
    }
    let Some((head, values)) = text.split_once('(') else {
        if let Some((_, word)) = text.split_once(char::is_whitespace) {
            return Err(unparsable(format_args!(
                "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                word.trim()
            )));
        }
        return checked(text, Test::Exists);
    };
    let Some(values) = values.trim_end().strip_suffix(')') else {
        return Err(unparsable(format_args!(
            "found '{values}', expected: ',' or 'end of string'"
        )));
    };
    let values = values
        .split(',')
        .map(|value| value.trim().to_owned())
        .collect();
    match head.trim().rsplit_once(char::is_whitespace) {
        Some((key, "in")) => checked(key.trim(), Test::In(values)),
        Some((key, "notin")) => checked(key.trim(), Test::NotIn(values)),
        _ => Err(unparsable(format_args!(
            "found '{}', expected: in, notin, =, ==, !=, gt, lt",
            head.trim()
        ))),
    }
}

fn checked(key: &str, test: Test) -> Result<Requirement, SelectorError> {
    if let Some(problem) = label_key_problems(key).first() {
        return Err(unparsable(format_args!(
            "key: Invalid value: {key:?}: {problem}"
        )));
    }
    if let Test::In(values) | Test::NotIn(values) = &test {
        for value in values {
            if let Some(problem) = label_value_problems(value).first() {
                return Err(unparsable(format_args!(
                    "values[0][{key}]: Invalid value: {value:?}: {problem}"
                )));
            }
        }
    }
    Ok(Requirement {
        key: key.to_owned(),
        test,
    })
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{FieldSelector, LabelSelector};

    #[track_caller]
    fn check(selector: &str, labels: Value, want: bool) {
        let parsed = LabelSelector::parse(selector).unwrap();
        assert_eq!(
            parsed.matches(Some(&labels)),
            want,
            "{selector} on {labels}"
        );
        assert_eq!(
            LabelSelector::parse(&parsed.to_string()).unwrap(),
            parsed,
            "{selector} prints as {parsed}"
        );
    }

    #[test]
    fn label_selectors_match_as_in_kubernetes() {
        check("", json!({}), true);
        check("a=b", json!({"a": "b"}), true);
        check("a==b,c=d", json!({"a": "b"}), false);
        check("a!=b", json!({}), true);
        check("a!=b", json!({"a": "b"}), false);
        check("a in (x, y)", json!({"a": "y"}), true);
        check("a in (x,)", json!({"a": ""}), true);
        check("a notin (x,y),b", json!({"b": ""}), true);
        check("!a", json!({"a": ""}), false);
        check("a", json!({"a": ""}), true);
        check("a>3", json!({"a": "4"}), true);
        check("a<3", json!({"a": "x"}), false);
        check(
            "example.com/role = web",
            json!({"example.com/role": "web"}),
            true,
        );
        check("a=", json!({"a": ""}), true);
        check("in in (in)", json!({"in": "in"}), true);
    }

    #[test]
    fn malformed_label_selectors_are_refused() {
        for text in [
            "a in (x",
            "a in x)",
            "a=b c",
            "a b",
            "a,,b",
            "a/b/c=d",
            "a~b",
            "a in ((x))",
            "!",
            "=x",
            "a in (x) y",
            "a!b",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_object_form_means_the_same() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["db"]},
                {"key": "v", "operator": "Exists"},
            ],
        });
        let selector = LabelSelector::from_object(&selector).unwrap();
        assert_eq!(selector.to_string(), "app=web,tier!=db,v");
        assert!(selector.matches(Some(&json!({"app": "web", "v": "1"}))));
        assert!(!selector.matches(None));
        assert!(
            LabelSelector::from_object(
                &json!({"matchExpressions": [{"key": "a", "operator": "In"}]})
            )
            .is_err()
        );
    }

    #[test]
    fn field_selectors_compare_text() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"hostNetwork": true}, "status": {"phase": "Running"}});
        let check = |text: &str, want: bool| {
            assert_eq!(
                FieldSelector::parse(text).unwrap().matches(&pod),
                want,
                "{text}"
            )
        };
        check("metadata.name=a", true);
        check("metadata.name==b", false);
        check("status.phase!=Failed,spec.nodeName=", true);
        check("spec.hostNetwork=true", true);
        assert!(FieldSelector::parse("status.phase").is_err());
        assert_eq!(
            FieldSelector::parse(r"type=a\,b").unwrap().required("type"),
            Some("a,b")
        );
        let error = FieldSelector::parse("x.y=1")
            .unwrap()
            .check(&[])
            .unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: x.y");
    }
}
