//! CEL conditions on requests, such as the `matchConditions` of admission webhooks.
//!
//! Objects are plain maps here: a field is reached by its own name, `object.metadata.labels['app.kubernetes.io/name']`.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Value as CelValue};
use serde_json::Value;

use crate::schema::cel::program::Checked;
use crate::schema::cel::{MAX_STEPS, longest_collection};

/// A compiled condition over named variables.
#[derive(Debug)]
pub struct Condition(Checked);

impl Condition {
    /// Compiles an expression that may use these variables; the error says what is wrong with it.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, String> {
        Checked::compile_over(source, variables).map(Self)
    }

    /// Evaluates to true or false; anything else, and running out of budget, is an error.
    pub fn evaluate(&self, variables: &[(&str, &Value)]) -> Result<bool, String> {
        let sizes = variables.iter().map(|(_, value)| longest_collection(value));
        if self.0.steps(sizes.max().unwrap_or(0)) > MAX_STEPS {
            return Err("the expression exceeds its cost budget".to_owned());
        }
        let mut scope = Context::default().with_all();
        for (name, value) in variables {
            scope.add_variable_from_value(*name, plain(value));
        }
        match self.0.execute(&scope)? {
            CelValue::Bool(answer) => Ok(answer),
            _ => Err("the expression evaluates to something that is not a bool".to_owned()),
        }
    }
}

fn plain(value: &Value) -> CelValue {
    match value {
        Value::Object(map) => {
            let key = |name: &String| Key::String(Arc::new(name.clone()));
            let fields = map.iter().map(|(name, child)| (key(name), plain(child)));
            let fields: HashMap<Key, CelValue> = fields.collect();
            CelValue::Map(Map {
                map: Arc::new(fields),
            })
        }
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(plain).collect())),
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
        assert!(Condition::compile("authorizer.group('')", &["object"]).is_err());
    }
}
