//! CEL conditions on requests, such as the `matchConditions` of admission webhooks.
//!
//! Objects are plain maps here: a field is reached by its own name, `object.metadata.labels['app.kubernetes.io/name']`.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube_cel::KubeCelExt;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Value as CelValue};
use serde_json::Value;

use crate::schema::cel::program::Checked;
use crate::schema::cel::{MAX_STEPS, longest_collection};

/// A compiled condition over named variables.
#[derive(Debug)]
pub struct Condition {
    checked: Checked,
    /// Variables whose texts are bytes to the expression.
    raw: Vec<Box<str>>,
}

impl Condition {
    /// Compiles an expression that may use these variables; the error says what is wrong with it.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, String> {
        Self::compile_with_raw(source, variables, &[])
    }

    /// As [`Self::compile`], where the texts in the variables of `raw` are bytes to the expression.
    pub fn compile_with_raw(
        source: &str,
        variables: &[&str],
        raw: &[&str],
    ) -> Result<Self, String> {
        Ok(Self {
            checked: Checked::compile_over(source, variables)?,
            raw: raw.iter().map(|name| (*name).into()).collect(),
        })
    }

    /// Evaluates to true or false; anything else, and running out of budget, is an error.
    pub fn evaluate(&self, variables: &[(&str, &Value)]) -> Result<bool, String> {
        match self.execute(variables)? {
            CelValue::Bool(answer) => Ok(answer),
            _ => Err("the expression evaluates to something that is not a bool".to_owned()),
        }
    }

    /// Evaluates to a text, as Envoy prints it: collections are only named.
    pub fn text(&self, variables: &[(&str, &Value)]) -> Result<String, String> {
        let value = self.execute(variables)?;
        printed(&value).ok_or_else(|| "the expression evaluates to what is no text".to_owned())
    }

    /// Evaluates to anything that JSON can say; anything else, and running out of budget, is an error.
    pub fn json(&self, variables: &[(&str, &Value)]) -> Result<Value, String> {
        let value = self.execute(variables)?;
        as_json(&value).ok_or_else(|| "the expression evaluates to what is no JSON".to_owned())
    }

    fn execute(&self, variables: &[(&str, &Value)]) -> Result<CelValue, String> {
        let sizes = variables.iter().map(|(_, value)| longest_collection(value));
        if self.checked.steps(sizes.max().unwrap_or(0)) > MAX_STEPS {
            return Err("the expression exceeds its cost budget".to_owned());
        }
        let mut scope = Context::default().with_all();
        for (name, value) in variables {
            let raw = self.raw.iter().any(|raw| **raw == **name);
            scope.add_variable_from_value(*name, plain(value, raw));
        }
        self.checked.execute(&scope)
    }
}

fn printed(value: &CelValue) -> Option<String> {
    Some(match value {
        CelValue::String(text) => (**text).clone(),
        CelValue::Bool(answer) => answer.to_string(),
        CelValue::Int(number) => number.to_string(),
        CelValue::UInt(number) => number.to_string(),
        CelValue::Float(number) => number.to_string(),
        CelValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        CelValue::Timestamp(moment) => moment.to_utc().to_rfc3339(),
        CelValue::Duration(time) => span(time.num_nanoseconds()?),
        CelValue::List(_) => "CelList value".to_owned(),
        CelValue::Map(_) => "CelMap value".to_owned(),
        CelValue::Null => "NULL".to_owned(),
        _ => return None,
    })
}

/// A span of time as Abseil writes it: `1h30m`, `4.5ms`.
fn span(nanos: i64) -> String {
    let mut left = nanos.unsigned_abs();
    let fraction = |of: u64, unit: u64, name: &str| {
        let (whole, part) = (of / unit, of % unit);
        let digits = unit.ilog10() as usize;
        let part = format!("{part:0digits$}");
        let part = part.trim_end_matches('0');
        let point = if part.is_empty() { "" } else { "." };
        format!("{whole}{point}{part}{name}")
    };
    let sign = if nanos < 0 { "-" } else { "" };
    let text = match left {
        0 => return "0".to_owned(),
        1..1_000 => format!("{left}ns"),
        1_000..1_000_000 => fraction(left, 1_000, "us"),
        1_000_000..1_000_000_000 => fraction(left, 1_000_000, "ms"),
        _ => {
            let mut text = String::new();
            for (unit, name) in [(3_600_000_000_000, "h"), (60_000_000_000, "m")] {
                if left >= unit {
                    text.push_str(&format!("{}{name}", left / unit));
                    left %= unit;
                }
            }
            if left > 0 {
                text.push_str(&fraction(left, 1_000_000_000, "s"));
            }
            text
        }
    };
    format!("{sign}{text}")
}

fn as_json(value: &CelValue) -> Option<Value> {
    Some(match value {
        CelValue::String(text) => Value::from(text.as_str()),
        CelValue::Bool(answer) => Value::from(*answer),
        CelValue::Int(number) => Value::from(*number),
        CelValue::UInt(number) => Value::from(*number),
        CelValue::Float(number) => Value::from(*number),
        CelValue::Bytes(bytes) => Value::from(STANDARD.encode(bytes.as_slice())),
        CelValue::Timestamp(moment) => {
            Value::from(moment.to_utc().to_rfc3339().replace("+00:00", "Z"))
        }
        CelValue::Duration(time) => {
            let nanos = time.num_nanoseconds()?;
            let (whole, part) = (nanos / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
            let part = format!("{part:09}");
            let part = part.trim_end_matches('0');
            let point = if part.is_empty() { "" } else { "." };
            Value::from(format!("{whole}{point}{part}s"))
        }
        CelValue::List(items) => Value::Array(items.iter().map(as_json).collect::<Option<_>>()?),
        CelValue::Map(map) => {
            let field = |(key, value): (&Key, &CelValue)| Some((key.to_string(), as_json(value)?));
            Value::Object(map.map.iter().map(field).collect::<Option<_>>()?)
        }
        CelValue::Null => Value::Null,
        _ => return None,
    })
}

/// The value as CEL has it; texts are bytes where it is `raw`.
fn plain(value: &Value, raw: bool) -> CelValue {
    match value {
        Value::Object(map) => {
            let key = |name: &String| Key::String(Arc::new(name.clone()));
            let field = |(name, child): (&String, &Value)| (key(name), plain(child, raw));
            let fields = map.iter().map(field);
            let fields: HashMap<Key, CelValue> = fields.collect();
            CelValue::Map(Map {
                map: Arc::new(fields),
            })
        }
        Value::Array(items) => CelValue::List(Arc::new(
            items.iter().map(|item| plain(item, raw)).collect(),
        )),
        Value::String(text) if raw => CelValue::Bytes(Arc::new(text.clone().into_bytes())),
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => CelValue::Int(whole),
            (None, Some(whole)) => CelValue::UInt(whole),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Null => CelValue::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Condition;

    #[test]
    fn conditions_look_at_requests() {
        let object =
            json!({"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "web"}}});
        let request = json!({"userInfo": {"username": "system:node:n"}, "operation": "CREATE"});
        let check = |source: &str, want: Result<bool, ()>| {
            let condition = Condition::compile(source, &["object", "request"]).unwrap();
            let got = condition.evaluate(&[("object", &object), ("request", &request)]);
            assert_eq!(got.map_err(|_| ()), want, "{source}");
        };
        check(
            "object.metadata.labels['app.kubernetes.io/name'] == 'web'",
            Ok(true),
        );
        check(
            "!request.userInfo.username.startsWith('system:node:')",
            Ok(false),
        );
        check("has(object.spec)", Ok(false));
        check("object.spec.x == 1", Err(()));
        check("object.metadata.name", Err(()));
        let printed = |source: &str| {
            let condition = Condition::compile(source, &["object"]).unwrap();
            let values = [("object", &object)];
            (condition.text(&values).ok(), condition.json(&values).ok())
        };
        let check = |source: &str, text: &str, value: serde_json::Value| {
            assert_eq!(
                printed(source),
                (Some(text.into()), Some(value)),
                "{source}"
            );
        };
        check("object.metadata.name", "a", json!("a"));
        check("1 + 1", "2", json!(2));
        check("[1, 'a']", "CelList value", json!([1, "a"]));
        check("{'a': 1}", "CelMap value", json!({"a": 1}));
        check("b'abc'", "abc", json!("YWJj"));
        check("null", "NULL", json!(null));
        check("duration('1h30m')", "1h30m", json!("5400s"));
        check("duration('1500us')", "1.5ms", json!("0.0015s"));
        check(
            "timestamp('2023-08-26T12:39:00-07:00')",
            "2023-08-26T19:39:00+00:00",
            json!("2023-08-26T19:39:00Z"),
        );
        let raw = Condition::compile_with_raw("object.a == b'x'", &["object"], &["object"]);
        let holds = raw.unwrap().evaluate(&[("object", &json!({"a": "x"}))]);
        assert_eq!(holds, Ok(true));
        assert!(Condition::compile("authorizer.group('')", &["object"]).is_err());
    }
}
