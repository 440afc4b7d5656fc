//! JSON out of the fuzzer's bytes: values of any shape, values that mostly fit a schema, and damage to a good value.

use serde_json::{Map, Value, json};

use crate::input::Input;

/// Texts that mean something to some field, and ones that mean nothing anywhere.
const TEXTS: &[&str] = &[
    "",
    "*",
    "*.*",
    "a",
    "b",
    "web",
    "x",
    "a.b.c",
    "*.com",
    "web.default.svc.cluster.local",
    "10.0.0.1",
    "10.0.0.0/8",
    "::1",
    "7s",
    "7000ms",
    "0s",
    "-1s",
    "1h",
    "1h30m",
    "STRICT",
    "http",
    "tcp",
    "80",
    "0",
    "-1",
    "99999",
    "(",
    ".*",
    "a{2,9}",
    "*x",
    "x*",
    "{*}",
    "{**}",
    "/a/{*}",
    "a/b",
    "/a",
    "./a",
    "~",
    ".",
    "mesh",
    "unix:///a",
    "%",
    "%REQ(:path)%",
    "%DURATION%",
    "request.headers[x]",
    "source.principal",
    "cluster.local/ns/a/sa/b",
    "\u{1F980}",
    "é\u{0}",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "delete",
    "merge",
    "replace",
    "name",
    "spec",
    "metadata",
    "containers",
    "type",
    "Always",
    "Never",
    "1",
    "500m",
    "1Gi",
    "1e3",
    "1.5Ki",
    "+1E",
    "100%",
    "25%",
    "2026-01-01T00:00:00Z",
    "true",
    "k8s.io/a",
    "a/b/c",
    "self.a == 1",
    "self.x.all(y, y > 0)",
    "duration",
    "object",
    "array",
    "integer",
    ".spec.size",
    ".a[*].b",
    "{.a[?(@.b==\"c\")].d}",
    "x-request-id",
    ":authority",
    ":path",
    "GET",
    "cookie",
    "istio-system",
    "default",
    "ReadWriteOnce",
];

const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    8,
    80,
    99,
    100,
    101,
    200,
    443,
    503,
    600,
    1023,
    8080,
    30_000,
    65_535,
    65_536,
    2_147_483_647,
    2_147_483_648,
    4_294_967_295,
    4_294_967_296,
    i64::MAX,
    i64::MIN,
];

const FLOATS: &[f64] = &[
    0.0, -0.0, 0.5, 1.5, 50.0, 99.99, 100.0, 100.1, -1.0, 0.000_01, 1e-300, 1e19, 1e300,
];

pub(crate) fn text(input: &mut Input<'_>) -> String {
    match input.byte() {
        255 => input.text(24),
        254 => "a".repeat(300),
        253 => format!("{}{}", input.pick(TEXTS), input.pick(TEXTS)),
        at => TEXTS[usize::from(at) % TEXTS.len()].to_owned(),
    }
}

fn number(input: &mut Input<'_>) -> i64 {
    *input.pick(NUMBERS)
}

/// Any JSON.
pub(crate) fn anything(input: &mut Input<'_>, depth: usize) -> Value {
    match input.below(if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => input.flag().into(),
        2 => number(input).into(),
        3 => (*input.pick(FLOATS)).into(),
        4 | 5 => text(input).into(),
        6 => (0..input.below(4))
            .map(|_| anything(input, depth - 1))
            .collect(),
        _ => {
            let fields = (0..input.below(4)).map(|_| (text(input), anything(input, depth - 1)));
            Value::Object(fields.collect())
        }
    }
}

/// What mostly fits a structural schema, and sometimes does not.
pub(crate) fn fitting(schema: &Value, input: &mut Input<'_>, depth: usize) -> Value {
    if depth == 0 || input.is_empty() {
        return Value::Null;
    }
    if input.byte() % 32 == 31 {
        return anything(input, 2);
    }
    match schema["type"].as_str().unwrap_or_default() {
        "object" => object(schema, input, depth - 1),
        "array" => (0..input.below(4))
            .map(|_| fitting(&schema["items"], input, depth - 1))
            .collect(),
        "string" => match schema["enum"].as_array() {
            Some(words) if !words.is_empty() => input.pick(words).clone(),
            _ => text(input).into(),
        },
        "integer" => number(input).into(),
        "number" => (*input.pick(FLOATS)).into(),
        "boolean" => input.flag().into(),
        _ if schema["x-kubernetes-int-or-string"] == true && input.flag() => number(input).into(),
        _ => text(input).into(),
    }
}

fn object(schema: &Value, input: &mut Input<'_>, depth: usize) -> Value {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let mut fields = Map::new();
    for _ in 0..input.below(5) {
        if properties.is_empty() {
            let value = match &schema["additionalProperties"] {
                of if of.is_object() => fitting(of, input, depth),
                _ => anything(input, depth.min(3)),
            };
            fields.insert(text(input), value);
        } else if let Some((name, of)) = properties.iter().nth(input.below(properties.len())) {
            fields.insert(name.clone(), fitting(of, input, depth));
        }
    }
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            fields.insert(
                name.to_owned(),
                fitting(&schema["properties"][name], input, depth),
            );
        }
    }
    Value::Object(fields)
}

/// Replaces, removes, doubles or renames at a few places.
pub(crate) fn damage(object: &mut Value, input: &mut Input<'_>) {
    for _ in 0..=input.below(4) {
        let mut at = &mut *object;
        loop {
            let children = match &*at {
                Value::Object(map) => map.len(),
                Value::Array(items) => items.len(),
                _ => 0,
            };
            let choice = input.below(children + 1);
            if choice == children {
                change(at, input);
                break;
            }
            at = match at {
                Value::Object(map) => map.values_mut().nth(choice).expect("chosen among them"),
                Value::Array(items) => &mut items[choice],
                _ => unreachable!("it has children"),
            };
        }
    }
}

fn change(at: &mut Value, input: &mut Input<'_>) {
    match (input.below(4), &mut *at) {
        (1, Value::Object(map)) => {
            map.insert(text(input), anything(input, 2));
        }
        (2, Value::Object(map)) if !map.is_empty() => {
            let name = map
                .keys()
                .nth(input.below(map.len()))
                .expect("chosen among them")
                .clone();
            map.shift_remove(&name);
        }
        (1, Value::Array(items)) if !items.is_empty() && items.len() < 20 => {
            let copy = items[input.below(items.len())].clone();
            items.push(copy);
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            items.remove(input.below(items.len()));
        }
        (3, Value::Object(map)) => {
            map.insert(text(input), json!(text(input)));
        }
        _ => *at = anything(input, 3),
    }
}
