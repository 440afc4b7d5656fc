//! The JSONPath that printer columns use: `.spec.hosts`, `[0]`, `[*]`, `['a.b']`, `\.` in names, `[?(@.type=="Ready")]`.
//!
//! Anything else is an error when the CRD is created, not an empty column.

use serde_json::Value;

/// Most steps of a path.
const MAX_STEPS: usize = 64;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Entries whose field at this path equals (or differs from) the value.
    Filter(Vec<String>, bool, Value),
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Parses a path relative to the object, with or without surrounding braces.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let inner = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(text);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        if rest.is_empty() {
            return Err("must be a JSON path such as .spec.replicas".to_owned());
        }
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() >= MAX_STEPS {
                return Err(format!("must have at most {MAX_STEPS} steps"));
            }
            rest = match rest.strip_prefix('[') {
                Some(bracket) => {
                    let end = closing(bracket).ok_or_else(|| "unterminated array".to_owned())?;
                    let (inside, after) = bracket.split_at(end);
                    steps.push(parse_bracket(inside)?);
                    after.get(1..).unwrap_or_default()
                }
                None => parse_field(rest, &mut steps)?,
            };
        }
        Ok(Self(steps))
    }

    /// All values at the path, in document order.
    pub(super) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.select(value))
                .collect();
        }
        found.retain(|value| !value.is_null());
        found
    }
}

impl Step {
    fn select<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else {
                    return Vec::new();
                };
                let at = if *index < 0 {
                    *index + items.len() as i64
                } else {
                    *index
                };
                usize::try_from(at)
                    .ok()
                    .and_then(|at| items.get(at))
                    .into_iter()
                    .collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter(path, equal, wanted) => {
                let at =
                    |item: &'a Value| path.iter().try_fold(item, |item, field| item.get(field));
                let items = value.as_array().into_iter().flatten();
                items
                    .filter(|item| (at(item) == Some(wanted)) == *equal)
                    .collect()
            }
        }
    }
}

/// The index of the bracket that closes, outside quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, symbol) in text.char_indices() {
        match (quote, symbol) {
            (None, '\'' | '"') => quote = Some(symbol),
            (Some(open), _) if symbol == open => quote = None,
            (None, ']') => return Some(at),
            _ => {}
        }
    }
    None
}

fn parse_bracket(inside: &str) -> Result<Step, String> {
    let inside = inside.trim();
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(filter) = inside
        .strip_prefix("?(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return parse_filter(filter);
    }
    inside
        .parse()
        .map(Step::Index)
        .map_err(|_| format!("invalid array index {inside}"))
}

fn parse_filter(filter: &str) -> Result<Step, String> {
    let (left, equal, right) = match (filter.split_once("=="), filter.split_once("!=")) {
        (Some((left, right)), _) => (left, true, right),
        (None, Some((left, right))) => (left, false, right),
        (None, None) => return Err(format!("unsupported filter {filter:?}: only == and != are")),
    };
    let Some(path) = left.trim().strip_prefix("@.") else {
        return Err(format!(
            "unsupported filter {filter:?}: must compare a field such as @.type"
        ));
    };
    let right = right.trim();
    let wanted = match unquoted(right) {
        Some(word) => Value::from(word),
        None => serde_json::from_str(right)
            .map_err(|_| format!("unsupported value {right:?} in filter"))?,
    };
    Ok(Step::Filter(
        path.split('.').map(str::to_owned).collect(),
        equal,
        wanted,
    ))
}

fn unquoted(text: &str) -> Option<&str> {
    let strip = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    strip('\'').or_else(|| strip('"'))
}

/// Reads `.name`, where `\.` stands for a dot in the name.
fn parse_field<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    let rest = text
        .strip_prefix('.')
        .ok_or_else(|| format!("unrecognized character in path: {text:?}"))?;
    let mut name = String::new();
    let mut symbols = rest.char_indices();
    let mut end = rest.len();
    while let Some((at, symbol)) = symbols.next() {
        match symbol {
            '.' | '[' => {
                end = at;
                break;
            }
            '\\' => name.extend(symbols.next().map(|(_, escaped)| escaped)),
            '{' | '}' | '(' | ')' | ' ' => {
                return Err(format!("unrecognized character {symbol:?} in path"));
            }
            other => name.push(other),
        }
    }
    match name.as_str() {
        "" => return Err("empty field name in path".to_owned()),
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    Ok(rest.get(end..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::JsonPath;

    #[track_caller]
    fn check(path: &str, want: Value) {
        let object = json!({
            "spec": {"hosts": ["a", "b"], "ports": [{"n": 1}, {"n": 2}]},
            "metadata": {"labels": {"app.kubernetes.io/name": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        let found: Vec<Value> = JsonPath::parse(path)
            .unwrap()
            .find(&object)
            .into_iter()
            .cloned()
            .collect();
        assert_eq!(Value::from(found), want, "{path}");
    }

    #[test]
    fn paths_find_what_kubectl_finds() {
        check(".spec.hosts", json!([["a", "b"]]));
        check(".spec.hosts[0]", json!(["a"]));
        check(".spec.hosts[-1]", json!(["b"]));
        check("{.spec.ports[*].n}", json!([1, 2]));
        check(
            r#".status.conditions[?(@.type=="Ready")].status"#,
            json!(["True"]),
        );
        check(
            ".status.conditions[?(@.type!='Ready')].status",
            json!(["False"]),
        );
        check(r".metadata.labels.app\.kubernetes\.io/name", json!(["x"]));
        check(".metadata.labels['app.kubernetes.io/name']", json!(["x"]));
        check(".spec.none.deeper", json!([]));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for path in [
            "",
            "spec",
            ".",
            ".spec[",
            ".spec..hosts",
            ".a[?(@.x>1)]",
            ".a[1:2]",
            ".spec.hosts | length",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
