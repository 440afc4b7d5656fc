//! CEL rules (`x-kubernetes-validations`): compiling them with the schema and running them on objects.
//!
//! Invariants: a compiled rule names only variables and functions that exist and builds no messages (the interpreter panics on
//! those); a rule whose worst case over the actual object exceeds [`MAX_STEPS`] fails instead of running.

pub(crate) mod program;
mod value;

use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::objects::OptionalValue;
use kube_cel::cel::{Context, Value as CelValue};
use serde_json::Value;

use super::node::{Node, join};
use super::stack;
use super::validate::correlate;
use crate::error::{FieldError, FieldErrorKind};
use program::Checked;
use value::{Formats, to_cel};

/// Steps one rule may take on one object, as Kubernetes' per-expression cost limit.
pub(crate) const MAX_STEPS: u64 = 10_000_000;
/// Longest message a rule may produce; longer ones are cut.
const MAX_MESSAGE_BYTES: usize = 2048;

/// One compiled `x-kubernetes-validations` entry.
#[derive(Debug, Clone)]
pub(crate) struct CelRule {
    rule: Arc<Checked>,
    message: Option<String>,
    message_expression: Option<Arc<Checked>>,
    field_path: Option<String>,
    reason: FieldErrorKind,
    optional_old: bool,
}

/// Compiles the rules of one node. `correlatable`: whether the old value of this node can be found, so that `oldSelf` means
/// something.
pub(crate) fn compile(
    raw: &Value,
    path: &str,
    correlatable: bool,
    errors: &mut Vec<FieldError>,
) -> Vec<CelRule> {
    let Some(list) = raw.as_array() else {
        errors.push(FieldError::invalid(
            path,
            raw.clone(),
            "must be a list of rules",
        ));
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        match compile_one(entry, &format!("{path}[{index}]"), correlatable) {
            Ok(rule) => rules.push(rule),
            Err(error) => errors.push(error),
        }
    }
    rules
}

fn compile_one(entry: &Value, path: &str, correlatable: bool) -> Result<CelRule, FieldError> {
    let text = |field: &str| {
        entry
            .get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let source = text("rule")
        .ok_or_else(|| FieldError::required(&join(path, "rule"), "rule is not specified"))?;
    let compile_program = |field: &str, source: &str| {
        Checked::compile(source).map_err(|problem| {
            FieldError::invalid(
                &join(path, field),
                source,
                format!("compilation failed: {problem}"),
            )
        })
    };
    let rule = compile_program("rule", source)?;
    if rule.uses_old_self && !correlatable {
        let detail = "oldSelf cannot be used on the uncorrelatable portion of the schema";
        return Err(FieldError::invalid(&join(path, "rule"), source, detail));
    }
    let message_expression = text("messageExpression")
        .map(|source| compile_program("messageExpression", source))
        .transpose()?;
    if let Some(message) = text("message")
        && message.contains('\n')
    {
        return Err(FieldError::invalid(
            &join(path, "message"),
            message,
            "message must not contain line breaks",
        ));
    }
    let reason = match text("reason") {
        None | Some("FieldValueInvalid") => FieldErrorKind::Invalid,
        Some("FieldValueForbidden") => FieldErrorKind::Forbidden,
        Some("FieldValueRequired") => FieldErrorKind::Required,
        Some("FieldValueDuplicate") => FieldErrorKind::Duplicate,
        Some(other) => {
            let supported = [
                "FieldValueDuplicate",
                "FieldValueForbidden",
                "FieldValueInvalid",
                "FieldValueRequired",
            ];
            return Err(FieldError::not_supported(
                &join(path, "reason"),
                other,
                &supported,
            ));
        }
    };
    Ok(CelRule {
        rule: Arc::new(rule),
        message: text("message").map(|message| message.trim().to_owned()),
        message_expression: message_expression.map(Arc::new),
        field_path: text("fieldPath").map(str::to_owned),
        reason,
        optional_old: entry.get("optionalOldSelf") == Some(&Value::Bool(true)),
    })
}

/// Runs every rule of the schema on the object.
pub(crate) fn run(root: &Node, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    errors.extend(stack::deep(|| {
        let context = context();
        let formats = Formats::new();
        let mut runner = Runner {
            context: &context,
            formats: &formats,
            errors: Vec::new(),
        };
        runner.walk(root, object, old, "");
        runner.errors
    }));
}

/// The functions and type names of rules. The `cel` crate has no first-class types: `type(x)` gives the name of a type and
/// `int` stands for its own name, so that `type(x) == int` means what it says.
fn context() -> Context<'static> {
    let mut context = Context::default().with_all();
    context.add_function(
        "dyn",
        |value: CelValue| -> Result<CelValue, kube_cel::cel::ExecutionError> { Ok(value) },
    );
    context.add_function("type", |value: CelValue| type_name(&value).to_owned());
    context.add_function("bool", |value: CelValue| match value {
        CelValue::String(text) => matches!(text.as_str(), "true" | "TRUE" | "True" | "t" | "1"),
        other => other == CelValue::Bool(true),
    });
    for name in program::TYPES {
        context.add_variable_from_value(*name, (*name).to_owned());
    }
    context
}

fn type_name(value: &CelValue) -> &'static str {
    match value {
        CelValue::List(_) => "list",
        CelValue::Map(_) => "map",
        CelValue::Int(_) => "int",
        CelValue::UInt(_) => "uint",
        CelValue::Float(_) => "double",
        CelValue::String(_) => "string",
        CelValue::Bytes(_) => "bytes",
        CelValue::Bool(_) => "bool",
        CelValue::Duration(_) => "duration",
        CelValue::Timestamp(_) => "timestamp",
        CelValue::Null => "null_type",
        CelValue::Function(..) | CelValue::Opaque(_) => "opaque",
    }
}

struct Runner<'a> {
    context: &'a Context<'a>,
    formats: &'a Formats,
    errors: Vec<FieldError>,
}

impl Runner<'_> {
    fn walk(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) {
        if !node.has_rules || value.is_null() {
            return;
        }
        self.check(node, value, old, path);
        match value {
            Value::Object(map) => {
                for (field, child) in map {
                    if let Some(schema) = node.field(field) {
                        let old = if node.atomic_map {
                            None
                        } else {
                            old.and_then(|old| old.get(field))
                        };
                        self.walk(schema, child, old, &join(path, field));
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &node.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| correlate(&node.list, item, old));
                    self.walk(schema, item, old, &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn check(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) {
        if node.rules.is_empty() {
            return;
        }
        let unchanged = old == Some(value);
        let mut scope = self.context.new_inner_scope();
        scope.add_variable_from_value("self", to_cel(node, value, self.formats));
        let old_value = old.map(|old| to_cel(node, old, self.formats));
        let longest = longest_collection(value).max(old.map_or(0, longest_collection));
        for rule in &node.rules {
            if rule.rule.uses_old_self && old.is_none() && !rule.optional_old {
                continue;
            }
            // An invalid value that was there before may stay (ratcheting); transitions are always judged.
            if unchanged && !rule.rule.uses_old_self {
                continue;
            }
            let mut scope = scope.new_inner_scope();
            match (&old_value, rule.optional_old) {
                (old, true) => {
                    let optional = old
                        .clone()
                        .map_or_else(OptionalValue::none, OptionalValue::of);
                    scope.add_variable_from_value("oldSelf", CelValue::Opaque(Arc::new(optional)));
                }
                (Some(old), false) => scope.add_variable_from_value("oldSelf", old.clone()),
                (None, false) => {}
            }
            if let Some(error) = rule.evaluate(&scope, longest, node, path) {
                self.errors.push(error);
            }
        }
    }
}

impl CelRule {
    fn evaluate(
        &self,
        scope: &Context<'_>,
        longest: u64,
        node: &Node,
        path: &str,
    ) -> Option<FieldError> {
        let kind = node.kind.map_or("object", |kind| kind.name());
        let error_path = match self.field_path.as_deref() {
            Some(relative) if path.is_empty() => relative.trim_start_matches('.').to_owned(),
            Some(relative) => format!("{path}{relative}"),
            None => path.to_owned(),
        };
        let detail = if self.rule.steps(longest) > MAX_STEPS {
            "validation failed due to running out of cost budget, no further validation rules will be run".to_owned()
        } else {
            match self.rule.execute(scope) {
                Ok(CelValue::Bool(true)) => return None,
                Ok(CelValue::Bool(false)) => self.failure_message(scope, longest),
                Ok(_) => format!(
                    "rule evaluated to something that is not a bool: {}",
                    self.rule.source
                ),
                Err(problem) => format!(
                    "{problem} evaluating rule: {}",
                    self.message.as_deref().unwrap_or(&self.rule.source)
                ),
            }
        };
        let value = match self.reason {
            FieldErrorKind::Required | FieldErrorKind::Forbidden => None,
            _ => Some(Box::new(Value::from(kind))),
        };
        Some(FieldError {
            kind: self.reason,
            path: error_path,
            value,
            detail,
        })
    }

    fn failure_message(&self, scope: &Context<'_>, longest: u64) -> String {
        let computed = self
            .message_expression
            .as_ref()
            .filter(|program| program.steps(longest) <= MAX_STEPS);
        if let Some(Ok(CelValue::String(text))) = computed.map(|program| program.execute(scope)) {
            let text = text.trim();
            if !text.is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE_BYTES {
                return text.to_owned();
            }
        }
        self.message
            .clone()
            .unwrap_or_else(|| format!("failed rule: {}", self.rule.source.trim()))
    }
}

/// The length of the longest list, map or string in a value: what a comprehension may have to visit.
pub(crate) fn longest_collection(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items
            .iter()
            .map(longest_collection)
            .max()
            .unwrap_or(0)
            .max(items.len() as u64),
        Value::Object(map) => map
            .values()
            .map(longest_collection)
            .max()
            .unwrap_or(0)
            .max(map.len() as u64),
        Value::String(text) => text.len() as u64,
        _ => 1,
    }
}

#[cfg(test)]
#[path = "cel/tests.rs"]
mod tests;
