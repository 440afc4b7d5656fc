//! Kubernetes objects, patches, definitions, selectors and expressions, as clients send them.

use jiff::Timestamp;
use malla_apimachinery::apply::{self, Manager};
use malla_apimachinery::condition::Condition;
use malla_apimachinery::kind::{FieldValidation, ResourceKind};
use malla_apimachinery::meta::{self, Creation};
use malla_apimachinery::selector::{FieldSelector, LabelSelector};
use malla_apimachinery::table::{Columns, IncludeObject};
use malla_apimachinery::{crd, openapi, patch as patches};
use serde_json::{Value, json};

use crate::input::Input;
use crate::samples::{KINDS, OBJECTS, definition, kind_of};
use crate::values;

/// An object: damage to a good one, or any JSON whose `kind` we serve.
pub fn object(data: &[u8]) {
    if data.first() == Some(&b'{') {
        let Ok(object) = serde_json::from_slice::<Value>(data) else {
            return;
        };
        let kind = KINDS
            .iter()
            .find(|kind| kind.kind == object["kind"] && kind.api_version() == object["apiVersion"]);
        if let Some(kind) = kind {
            exercise(kind, &object, object.clone());
        }
        return;
    }
    let mut input = Input::new(data);
    let sample = input.pick(&OBJECTS);
    let mut object = sample.clone();
    values::damage(&mut object, &mut input);
    exercise(kind_of(sample), sample, object);
}

/// Everything the server does with a write and a read.
pub(crate) fn exercise(kind: &ResourceKind, sample: &Value, mut object: Value) {
    if kind.decode(&mut object, FieldValidation::Warn).is_err() {
        return;
    }
    let decoded = object.clone();
    assert_eq!(
        kind.decode(&mut object, FieldValidation::Strict),
        Ok(vec![]),
        "decoding twice finds nothing new"
    );
    assert_eq!(object, decoded);
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let creation = Creation {
        namespace: &namespace,
        uid: "u",
        now: Timestamp::UNIX_EPOCH,
        suffix: "abcde",
    };
    if meta::prepare_create(&mut object, &creation, kind.status).is_err() {
        return;
    }
    kind.default_object(&mut object);
    let once = object.clone();
    kind.default_object(&mut object);
    assert_eq!(object, once, "defaulting twice changes nothing");
    let complaints = kind.validate_create(&object);
    assert_eq!(kind.validate_create(&object), complaints);
    kind.validate_update(&object, sample);
    kind.validate_update(sample, &object);
    if complaints.is_empty() {
        assert_eq!(
            kind.validate_update(&object, &object),
            [],
            "what was accepted may stay as it is"
        );
    }
    let manager = manager(kind);
    let mut updated = object.clone();
    apply::update(&kind.schema, Some(sample), &mut updated, &manager);
    if let Ok(applied) = apply::apply(&kind.schema, Some(&updated), sample, &manager, true) {
        let again = apply::apply(&kind.schema, Some(&applied), sample, &manager, false);
        assert_eq!(
            again.as_ref(),
            Ok(&applied),
            "applying twice changes nothing"
        );
    }
    let mut next = object.clone();
    meta::prepare_update(&mut next, sample, None, kind.status);
    meta::prepare_update(&mut next, &object, Some("status"), kind.status);
    let _ = patches::strategic_merge_patch(&kind.schema, sample, &object);
    let _ = patches::merge_patch(sample, &object);
    kind.columns.table(
        &[&object, &decoded],
        json!({}),
        IncludeObject::Metadata,
        Timestamp::UNIX_EPOCH,
        true,
    );
}

fn manager(kind: &ResourceKind) -> Manager<'_> {
    Manager {
        name: "m",
        api_version: "v1",
        subresource: None,
        now: Timestamp::UNIX_EPOCH,
        ignored: kind.ignored_fields(None),
    }
}

/// Patches: JSON patch, merge patch, strategic merge patch and server-side apply, of damaged objects or of any JSON.
pub fn patch(data: &[u8]) {
    let mut input = Input::new(data);
    let sample = input.pick(&OBJECTS);
    let kind = kind_of(sample);
    let manager = manager(kind);
    if input.flag() {
        let Ok(changes) = serde_json::from_slice::<Value>(input.rest()) else {
            return;
        };
        apply_all(kind, sample, &changes);
        return;
    }
    let mut changes = sample.clone();
    values::damage(&mut changes, &mut input);
    apply_all(kind, sample, &changes);
    let operations: Vec<Value> = (0..input.below(6))
        .map(|_| operation(sample, &mut input))
        .collect();
    apply_all(kind, sample, &Value::Array(operations));
    let mut live = sample.clone();
    live["metadata"]["managedFields"] = values::anything(&mut input, 4);
    let _ = apply::apply(&kind.schema, Some(&live), &changes, &manager, input.flag());
    apply::update(&kind.schema, Some(sample), &mut live, &manager);
    // Two managers in turn: what each applied stays applied.
    if let Ok(first) = apply::apply(&kind.schema, Some(sample), &changes, &manager, true) {
        let other = Manager {
            name: "other",
            ..manager
        };
        if let Ok(second) = apply::apply(&kind.schema, Some(&first), sample, &other, true) {
            let again = apply::apply(&kind.schema, Some(&second), sample, &other, false);
            assert_eq!(
                again.as_ref(),
                Ok(&second),
                "applying twice changes nothing"
            );
        }
    }
}

fn apply_all(kind: &ResourceKind, sample: &Value, changes: &Value) {
    let before = sample.clone();
    let _ = patches::json_patch(sample, changes);
    if let Ok(merged) = patches::merge_patch(sample, changes) {
        assert_eq!(
            patches::merge_patch(&merged, changes),
            Ok(merged),
            "a merge patch is idempotent"
        );
    }
    let _ = patches::strategic_merge_patch(&kind.schema, sample, changes);
    let _ = patches::strategic_merge_patch(&kind.schema, changes, sample);
    let _ = apply::apply(&kind.schema, Some(sample), changes, &manager(kind), true);
    let _ = apply::apply(&kind.schema, None, changes, &manager(kind), true);
    assert_eq!(*sample, before);
}

fn operation(sample: &Value, input: &mut Input<'_>) -> Value {
    let op = *input.pick(&["add", "remove", "replace", "move", "copy", "test", "x"]);
    json!({"op": op, "path": pointer(sample, input), "from": pointer(sample, input), "value": values::anything(input, 2)})
}

/// A JSON pointer into the object, or just past it.
fn pointer(object: &Value, input: &mut Input<'_>) -> String {
    let (mut path, mut at) = (String::new(), object);
    for _ in 0..input.below(6) {
        let (step, next) = match at {
            Value::Object(map) if !map.is_empty() => {
                let (name, next) = map
                    .iter()
                    .nth(input.below(map.len()))
                    .expect("chosen among them");
                (name.clone(), next)
            }
            Value::Array(items) if !items.is_empty() => {
                let index = input.below(items.len());
                (index.to_string(), &items[index])
            }
            _ => break,
        };
        path.push('/');
        path.push_str(&step.replace('~', "~0").replace('/', "~1"));
        at = next;
    }
    if input.byte() % 8 == 0 {
        path.push_str(*input.pick(&["/-", "/0", "/~2", "/9", "/\u{e9}", "x", "/+1", "/01"]));
    }
    path
}

/// A CustomResourceDefinition: damage to a good one, or any JSON; and objects of the kinds it makes.
pub fn crd(data: &[u8]) {
    let mut input = Input::new(data);
    let mut given = if data.first() == Some(&b'{') {
        let Ok(given) = serde_json::from_slice(data) else {
            return;
        };
        given
    } else {
        let mut given = definition();
        let schema = given.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
        values::damage(schema.expect("it is there"), &mut input);
        if input.flag() {
            values::damage(&mut given, &mut input);
        }
        given
    };
    if let Ok(kinds) = crd::kinds(&given) {
        for kind in &kinds {
            let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind,
                "metadata": {"name": "a", "namespace": "b"}, "spec": {"size": 1, "parts": [{"id": "1"}]}});
            values::damage(&mut object["spec"], &mut input);
            object["kind"] = kind.kind.as_str().into();
            exercise(kind, &object.clone(), object);
        }
        openapi::v3(&kinds.iter().collect::<Vec<_>>());
    }
    crd::establish(&mut given, Timestamp::UNIX_EPOCH);
    let once = given.clone();
    crd::establish(&mut given, Timestamp::UNIX_EPOCH);
    assert_eq!(given, once, "establishing twice changes nothing");
}

/// A CEL expression, as a match condition of a webhook and as a rule of a schema.
pub fn cel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(condition) = Condition::compile(text, &["object", "oldObject", "request"]) {
        let request = json!({"operation": "CREATE", "userInfo": {"username": "u", "groups": ["g"]}, "n": 1.5, "none": null});
        for object in OBJECTS.iter().take(2) {
            let variables = [
                ("object", object),
                ("oldObject", &Value::Null),
                ("request", &request),
            ];
            let first = condition.evaluate(&variables);
            assert_eq!(condition.evaluate(&variables), first);
        }
    }
    let mut given = definition();
    let spec = &mut given["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["x-kubernetes-validations"] =
        json!([{"rule": text}, {"rule": "true", "messageExpression": text}]);
    for kind in crd::kinds(&given).into_iter().flatten() {
        let widget = OBJECTS
            .iter()
            .find(|object| object["kind"] == "Widget")
            .expect("a sample");
        let first = kind.validate_update(widget, widget);
        assert_eq!(kind.validate_update(widget, widget), first);
        kind.validate_create(widget);
    }
}

/// Label selectors, field selectors and printer columns; what is printed is read back as the same.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = selector.to_string();
        assert_eq!(
            LabelSelector::parse(&printed).as_ref(),
            Ok(&selector),
            "{text} prints as {printed}"
        );
        for object in OBJECTS.iter().take(3) {
            selector.matches_object(object);
        }
        selector.matches(Some(&json!({"a": "b", "k": "7"})));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        for object in OBJECTS.iter() {
            selector.matches(object);
        }
        let _ = selector.check(&["status.phase".to_owned()]);
    }
    let columns = json!([{"name": "C", "type": "string", "jsonPath": text}, {"name": "D", "type": "integer", "jsonPath": text}, {"name": "E", "type": "date", "jsonPath": text}]);
    if let Ok(columns) = Columns::from_crd(Some(&columns), "x") {
        let objects: Vec<&Value> = OBJECTS.iter().collect();
        columns.table(
            &objects,
            json!({}),
            IncludeObject::Object,
            Timestamp::UNIX_EPOCH,
            true,
        );
    }
}
