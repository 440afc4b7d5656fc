//! Value validations of one node: enum, ranges, lengths, patterns, formats, required and the logical junctors.
//!
//! Messages are those of `k8s.io/kube-openapi/pkg/validation`, wrapped as kube-apiserver wraps them.

use regex::Regex;
use serde_json::Value;

use super::format::Format;
use super::node::{Node, join};
use super::validate::Validation;
use crate::error::{FieldError, FieldErrorKind};

/// The value validations of a node. All absent means any value of the type.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) choices: Vec<Value>,
    pub(crate) minimum: Option<(f64, bool)>,
    pub(crate) maximum: Option<(f64, bool)>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) pattern: Option<(String, Regex)>,
    pub(crate) format: Option<Format>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) required: Vec<String>,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
}

impl Checks {
    /// Checks one value whose type is already known to fit.
    pub(crate) fn run(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        self.check_choices(value, path, errors);
        match value {
            Value::Number(number) => {
                self.check_number(value, number.as_f64().unwrap_or(f64::NAN), path, errors)
            }
            Value::String(text) => self.check_text(text, path, errors),
            Value::Array(items) => self.check_items(value, items, path, errors),
            Value::Object(map) => {
                for name in &self.required {
                    if !map.contains_key(name) {
                        errors.push(FieldError::required(&join(path, name), ""));
                    }
                }
                self.check_size(value, map.len() as u64, path, errors);
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.check_junctors(value, path, errors);
    }

    fn check_choices(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        if !self.choices.is_empty() && !self.choices.contains(value) {
            let choices: Vec<String> = self.choices.iter().map(Value::to_string).collect();
            errors.push(FieldError {
                kind: FieldErrorKind::NotSupported,
                path: path.to_owned(),
                value: Some(Box::new(value.clone())),
                detail: format!("supported values: {}", choices.join(", ")),
            });
        }
    }

    fn check_number(&self, value: &Value, number: f64, path: &str, errors: &mut Vec<FieldError>) {
        let mut refuse = |rule: String| {
            errors.push(FieldError::invalid(
                path,
                value.clone(),
                in_body(path, &rule),
            ))
        };
        if let Some((bound, exclusive)) = self.maximum
            && (number > bound || exclusive && number == bound)
        {
            refuse(format!(
                "should be less than {}{bound}",
                or_equal(exclusive)
            ));
        }
        if let Some((bound, exclusive)) = self.minimum
            && (number < bound || exclusive && number == bound)
        {
            refuse(format!(
                "should be greater than {}{bound}",
                or_equal(exclusive)
            ));
        }
        if let Some(factor) = self.multiple_of
            && (number / factor).fract() != 0.0
        {
            refuse(format!("should be a multiple of {factor}"));
        }
        if let Some(format) = &self.format
            && !format.admits_number(value)
        {
            refuse(format!(
                "must be of type {}: {:?}",
                format.name(),
                value.to_string()
            ));
        }
    }

    fn check_text(&self, text: &str, path: &str, errors: &mut Vec<FieldError>) {
        let length = text.chars().count() as u64;
        if let Some(max) = self.max_length
            && length > max
        {
            errors.push(FieldError::too_long(
                path,
                format!("may not be more than {max} bytes"),
            ));
        }
        let mut refuse =
            |rule: String| errors.push(FieldError::invalid(path, text, in_body(path, &rule)));
        if let Some(min) = self.min_length
            && length < min
        {
            refuse(format!("should be at least {min} chars long"));
        }
        if let Some((source, pattern)) = &self.pattern
            && !pattern.is_match(text)
        {
            refuse(format!("should match '{source}'"));
        }
        if let Some(format) = &self.format
            && !format.admits_text(text)
        {
            refuse(format!("must be of type {}: {text:?}", format.name()));
        }
    }

    fn check_items(
        &self,
        value: &Value,
        items: &[Value],
        path: &str,
        errors: &mut Vec<FieldError>,
    ) {
        let count = items.len() as u64;
        if let Some(max) = self.max_items
            && count > max
        {
            errors.push(FieldError::too_many(path, items.len(), max));
        }
        if let Some(min) = self.min_items
            && count < min
        {
            let rule = in_body(path, &format!("should have at least {min} items"));
            errors.push(FieldError::invalid(path, value.clone(), rule));
        }
        if self.unique_items {
            let mut seen = std::collections::HashSet::new();
            if !items.iter().all(|item| seen.insert(item.to_string())) {
                errors.push(FieldError::invalid(
                    path,
                    value.clone(),
                    in_body(path, "shouldn't contain duplicates"),
                ));
            }
        }
    }

    fn check_size(&self, value: &Value, count: u64, path: &str, errors: &mut Vec<FieldError>) {
        let mut refuse = |rule: String| {
            errors.push(FieldError::invalid(
                path,
                value.clone(),
                in_body(path, &rule),
            ))
        };
        if let Some(max) = self.max_properties
            && count > max
        {
            refuse(format!("should have at most {max} properties"));
        }
        if let Some(min) = self.min_properties
            && count < min
        {
            refuse(format!("should have at least {min} properties"));
        }
    }

    fn check_junctors(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        let branch = |node: &Node| {
            let mut errors = Vec::new();
            Validation::junctor().check(node, value, None, path, &mut errors);
            errors
        };
        for node in &self.all_of {
            errors.extend(branch(node));
        }
        let mut refuse = |rule: String| errors.push(FieldError::invalid(path, value.clone(), rule));
        if let Some(node) = &self.not
            && branch(node).is_empty()
        {
            refuse(format!("{path:?} must not validate the schema (not)"));
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(|node| branch(node).is_empty()) {
            refuse(format!(
                "{path:?} must validate at least one schema (anyOf)"
            ));
        }
        if !self.one_of.is_empty() {
            match self
                .one_of
                .iter()
                .filter(|node| branch(node).is_empty())
                .count()
            {
                1 => {}
                0 => {
                    refuse(format!(
                        "{path:?} must validate one and only one schema (oneOf). Found none valid"
                    ));
                    // The closest branch tells the user what is missing.
                    errors.extend(
                        self.one_of
                            .iter()
                            .map(branch)
                            .min_by_key(Vec::len)
                            .unwrap_or_default(),
                    );
                }
                valid => refuse(format!(
                    "{path:?} must validate one and only one schema (oneOf). Found {valid} valid alternatives"
                )),
            }
        }
    }
}

fn or_equal(exclusive: bool) -> &'static str {
    if exclusive { "" } else { "or equal to " }
}

/// `spec.replicas in body should be …`.
pub(crate) fn in_body(path: &str, rule: &str) -> String {
    format!("{path} in body {rule}")
}
