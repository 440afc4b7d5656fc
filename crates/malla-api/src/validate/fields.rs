//! Checks a value against a structural schema, strictly.
//!
//! Kubernetes prunes unknown fields silently where the client does not ask for more; here they are
//! errors, with the field that was probably meant. Recursion is bounded by the schema's depth, for
//! nothing is descended into that the schema does not describe.

use std::collections::VecDeque;
use std::time::Duration;

use regex::Regex;
use serde_json::{Map, Value};

use crate::duration::{self, AT_LEAST_1MS, FORMAT};
use crate::report::{Report, show};

/// Checks `value`, which stands at `path`, against `schema`; `root` is the schema of `spec`, for
/// finding where a misplaced field belongs.
pub fn check(root: &Value, schema: &Value, value: &Value, path: &str, report: &mut Report) {
    if value.is_null() {
        return; // An explicit null is an absent field.
    }
    if let Some(expected) = schema.get("type").and_then(Value::as_str)
        && !has_type(value, expected)
    {
        report
            .error(path, format!("expected {}", article(expected)))
            .value(show(value))
            .done();
        return;
    }
    match value {
        Value::Object(fields) => check_object(root, schema, fields, path, report),
        Value::Array(items) => {
            bounds(
                schema,
                "minItems",
                "maxItems",
                items.len() as f64,
                "items",
                path,
                report,
            );
            if let Some(item_schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    check(root, item_schema, item, &format!("{path}[{at}]"), report);
                }
            }
        }
        Value::String(text) => check_text(schema, text, path, report),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let wrong_width = schema.get("format").is_some_and(|f| f == "int32")
                && !(f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number);
            if wrong_width {
                report
                    .error(path, "does not fit 32 bits")
                    .value(show(value))
                    .done();
            }
            bounds(schema, "minimum", "maximum", number, "", path, report);
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        _ => true,
    }
}

fn article(expected: &str) -> String {
    match expected {
        "object" => "a mapping (fields, indented below)".into(),
        "array" => "a list (items that begin with -)".into(),
        "integer" => "a whole number".into(),
        other => format!("a {other}"),
    }
}

fn check_object(
    root: &Value,
    schema: &Value,
    fields: &Map<String, Value>,
    path: &str,
    report: &mut Report,
) {
    let keeps = schema
        .get("x-kubernetes-preserve-unknown-fields")
        .is_some_and(|keep| keep == true);
    let properties = schema.get("properties").and_then(Value::as_object);
    let values = schema.get("additionalProperties");
    for (name, value) in fields {
        let at = format!("{path}.{name}");
        match (properties.and_then(|known| known.get(name)), values) {
            (Some(known), _) => check(root, known, value, &at, report),
            (None, Some(each)) => check(root, each, value, &at, report),
            (None, None) if keeps => {}
            (None, None) => unknown(root, properties, name, path, report),
        }
    }
    if values.is_some() {
        bounds(
            schema,
            "minProperties",
            "maxProperties",
            fields.len() as f64,
            "entries",
            path,
            report,
        );
    }
    for name in names(schema.get("required")) {
        if fields
            .get(name)
            .is_none_or(|value| value.is_null() || value == "")
        {
            report.error(format!("{path}.{name}"), "is required").done();
        }
    }
    check_choices(schema, fields, path, report);
}

/// The texts of a JSON list.
fn names(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn unknown(
    root: &Value,
    known: Option<&Map<String, Value>>,
    name: &str,
    path: &str,
    report: &mut Report,
) {
    let finding = report.error(format!("{path}.{name}"), "unknown field");
    let near = known.and_then(|known| nearest(name, known.keys().map(String::as_str)));
    let at = |field: String| format!("did you mean {field}?");
    match (near, place_of(root, name)) {
        (Some(similar), _) => finding.fix(at(format!("{path}.{similar}"))),
        (None, Some(place)) => finding.fix(at(place)),
        (None, None) => finding.done(),
    }
}

/// The name closest to `wrong`, where one is close enough to be a slip.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong_lower: Vec<char> = wrong
        .chars()
        .take(64)
        .collect::<String>()
        .to_lowercase()
        .chars()
        .filter(|c| *c != '_')
        .collect();
    let most = (wrong_lower.len() / 3).min(3);
    names
        .map(|name| {
            let candidate: Vec<char> = name.to_lowercase().chars().collect();
            (distance(&wrong_lower, &candidate), name)
        })
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace) from one text to the other.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, above) in to.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(a != b))
                .min(left + 1)
                .min(*above + 1);
            diagonal = *above;
            left = best;
            *above = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Where a field of that name stands in the schema: the shallowest place, as `spec.http[].fault`.
pub(crate) fn place_of(root: &Value, name: &str) -> Option<String> {
    let mut queue = VecDeque::from([("spec".to_owned(), root)]);
    while let Some((path, schema)) = queue.pop_front() {
        let properties = schema.get("properties").and_then(Value::as_object);
        if let Some(properties) = properties {
            if properties.contains_key(name) {
                return Some(format!("{path}.{name}"));
            }
            queue.extend(
                properties
                    .iter()
                    .map(|(field, inner)| (format!("{path}.{field}"), inner)),
            );
        }
        if let Some(items) = schema.get("items") {
            queue.push_back((format!("{path}[]"), items));
        }
        if let Some(values) = schema.get("additionalProperties") {
            queue.push_back((format!("{path}.<name>"), values));
        }
    }
    None
}

/// `oneOf` as [`crate::schema::at_most_one`] writes it: fields that exclude each other.
fn check_choices(schema: &Value, fields: &Map<String, Value>, path: &str, report: &mut Report) {
    let several = schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for choice in several.chain([schema]) {
        let branches = choice
            .get("oneOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let set: Vec<&str> = branches
            .flat_map(|branch| names(branch.get("required")))
            .filter(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
            .collect();
        if set.len() > 1 {
            report
                .error(path, format!("only one of {} may be set", set.join(", ")))
                .fix("remove all but one");
        }
    }
}

fn check_text(schema: &Value, text: &str, path: &str, report: &mut Report) {
    let allowed: Vec<&str> = names(schema.get("enum")).collect();
    if !allowed.is_empty() && !allowed.contains(&text) {
        let finding = report
            .error(path, format!("is none of {}", allowed.join(", ")))
            .value(format!("{text:?}"));
        match nearest(text, allowed.iter().copied()) {
            Some(similar) => finding.fix(format!("did you mean {similar}?")),
            None => finding.done(),
        }
    }
    check_duration(schema, text, path, report);
    bounds(
        schema,
        "minLength",
        "maxLength",
        text.chars().count() as f64,
        "characters",
        path,
        report,
    );
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        report
            .error(path, format!("does not match {pattern}"))
            .value(format!("{text:?}"))
            .done();
    }
}

/// Checks a number, or a count of `unit`, against two keywords of the schema.
fn bounds(
    schema: &Value,
    low: &str,
    high: &str,
    number: f64,
    unit: &str,
    path: &str,
    report: &mut Report,
) {
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    if let Some(least) = schema.get(low).and_then(Value::as_f64)
        && number < least
    {
        report
            .error(path, format!("{number}{unit} is less than {least}"))
            .done();
    }
    if let Some(most) = schema.get(high).and_then(Value::as_f64)
        && number > most
    {
        report
            .error(path, format!("{number}{unit} is more than {most}"))
            .done();
    }
}

/// Durations are texts with a CEL rule or a format.
fn check_duration(schema: &Value, text: &str, path: &str, report: &mut Report) {
    let rules = schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array);
    let has_rule = |rule: &Value| rule.get("rule").is_some_and(|rule| rule == AT_LEAST_1MS);
    let least = if rules.is_some_and(|rules| rules.iter().any(has_rule)) {
        Duration::from_millis(1)
    } else if schema.get("format").is_some_and(|format| format == FORMAT) {
        Duration::ZERO
    } else {
        return;
    };
    match duration::parse(text) {
        Err(_) => report
            .error(path, "is not a duration")
            .value(format!("{text:?}"))
            .fix("write it as 500ms, 7s, 1.5s or 1h"),
        Ok(time) if time < least => report
            .error(path, "must be at least 1ms")
            .value(format!("{text:?}"))
            .fix("remove it for the default"),
        Ok(_) => {}
    }
}
