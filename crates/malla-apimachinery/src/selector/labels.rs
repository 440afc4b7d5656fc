//! Label selectors: the string form, the object form, and what they match.

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::meta::labels::{label_key_problems, label_value_problems};

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
