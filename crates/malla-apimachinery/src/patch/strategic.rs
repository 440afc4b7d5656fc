//! Strategic merge patch, as `k8s.io/apimachinery/pkg/util/strategicpatch` does it.
//!
//! A patch is a partial object with directives: `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`. Invariant: no directive survives into the result.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::node::{Node, PatchMerge};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Merges a patch into an object of this shape.
pub(super) fn merge_maps(
    node: Option<&Arc<Node>>,
    mut original: Object,
    mut patch: Object,
) -> Result<Object, PatchError> {
    match patch.shift_remove(PATCH) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "replace" => return Ok(without_directives(patch)),
            "delete" => return Ok(Object::new()),
            "merge" => {}
            other => return Err(malformed(format!("unrecognized type: {other}"))),
        },
        Some(other) => return Err(malformed(format!("bad type of $patch: {other}"))),
    }
    if let Some(retained) = patch.shift_remove(RETAIN_KEYS) {
        let Some(retained) = retained.as_array() else {
            return Err(malformed("$retainKeys must be a list".to_owned()));
        };
        if let Some(key) = patch.keys().find(|key| {
            !key.starts_with('$')
                && !retained.iter().any(|kept| kept == key.as_str())
                && !patch[key.as_str()].is_null()
        }) {
            return Err(malformed(format!(
                "$retainKeys does not name {key:?}, which the patch sets"
            )));
        }
        original.retain(|key, _| retained.iter().any(|kept| kept == key));
    }
    let (directives, fields): (Object, Object) =
        patch.into_iter().partition(|(key, _)| key.starts_with('$'));
    let mut orders: Vec<(String, Vec<Value>)> = Vec::new();
    for (key, value) in directives {
        let Value::Array(values) = value else {
            return Err(malformed(format!("{key} must be a list")));
        };
        if let Some(field) = key.strip_prefix(ORDER) {
            orders.push((field.to_owned(), values));
        } else if let Some(field) = key.strip_prefix(DELETE_FROM) {
            if let Some(list) = original.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|item| !values.contains(item));
            }
        } else {
            return Err(malformed(format!("unknown directive {key:?}")));
        }
    }
    for (key, value) in fields {
        let child = node.and_then(|node| node.field(&key)).cloned();
        let order = orders
            .iter()
            .position(|(field, _)| *field == key)
            .map(|index| orders.swap_remove(index).1);
        merge_field(child.as_ref(), &mut original, key, value, order)?;
    }
    // An order without changes to the list.
    for (key, order) in orders {
        let merge = node
            .and_then(|node| node.field(&key))
            .and_then(|child| child.patch.clone());
        if let (Some(Value::Array(items)), Some(merge)) = (original.get_mut(&key), merge) {
            let before = items.clone();
            reorder(items, &before, &order, &merge);
        }
    }
    Ok(original)
}

fn merge_field(
    node: Option<&Arc<Node>>,
    original: &mut Object,
    key: String,
    patch: Value,
    order: Option<Vec<Value>>,
) -> Result<(), PatchError> {
    let merge = node.and_then(|node| node.patch.clone());
    match (original.get_mut(&key).map(Value::take), patch) {
        (_, Value::Null) => {
            original.shift_remove(&key);
        }
        (Some(Value::Object(old)), Value::Object(patch)) => {
            let merged = merge_maps(node, old, patch)?;
            original.insert(key, Value::Object(merged));
        }
        (None | Some(Value::Null), Value::Object(patch)) => {
            let merged = merge_maps(node, Object::new(), patch)?;
            original.insert(key, Value::Object(merged));
        }
        (old, Value::Array(patch)) => {
            let list = match merge {
                Some(merge) => {
                    let old = match old {
                        Some(Value::Array(old)) => old,
                        _ => Vec::new(),
                    };
                    merge_lists(node, &merge, old, patch, order)?
                }
                None => patch.into_iter().map(strip).collect(),
            };
            original.insert(key, Value::Array(list));
        }
        (_, other) => {
            original.insert(key, strip(other));
        }
    }
    Ok(())
}

fn merge_lists(
    node: Option<&Arc<Node>>,
    merge: &PatchMerge,
    old: Vec<Value>,
    patch: Vec<Value>,
    order: Option<Vec<Value>>,
) -> Result<Vec<Value>, PatchError> {
    let before = old.clone();
    // Without an order of its own, a patch's list is the order: new entries come before those it does not name.
    let order = order.unwrap_or_else(|| patch.clone());
    let mut merged = match merge {
        PatchMerge::Scalars => {
            let mut merged = old;
            for item in patch {
                if !merged.contains(&item) {
                    merged.push(item);
                }
            }
            merged
        }
        PatchMerge::ByKey(key) => {
            merge_keyed(node.and_then(|node| node.items.as_ref()), key, old, patch)?
        }
    };
    reorder(&mut merged, &before, &order, merge);
    Ok(merged)
}

fn merge_keyed(
    item_node: Option<&Arc<Node>>,
    key: &str,
    mut merged: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let directive = |item: &Value| item.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    if patch
        .iter()
        .any(|item| directive(item).as_deref() == Some("replace"))
    {
        // `replace` as an entry of its own replaces the whole list by the other entries.
        let kept = patch.into_iter().filter(|item| directive(item).is_none());
        return Ok(kept.map(strip).collect());
    }
    for item in patch {
        let Value::Object(map) = item else {
            return Err(malformed(format!(
                "expected an object with merge key {key:?}, found {item}"
            )));
        };
        let Some(identity) = map.get(key).cloned() else {
            let shown = Value::Object(map);
            return Err(malformed(format!(
                "map: {shown} does not contain declared merge key: {key}"
            )));
        };
        let same = |candidate: &Value| candidate.get(key) == Some(&identity);
        if map.get(PATCH).and_then(Value::as_str) == Some("delete") {
            merged.retain(|candidate| !same(candidate));
            continue;
        }
        match merged.iter_mut().find(|candidate| same(candidate)) {
            Some(existing) => {
                let old = match existing.take() {
                    Value::Object(old) => old,
                    _ => Object::new(),
                };
                *existing = Value::Object(merge_maps(item_node, old, map)?);
            }
            None => merged.push(Value::Object(merge_maps(item_node, Object::new(), map)?)),
        }
    }
    Ok(merged)
}

/// Puts the entries named by `order` in that order; the others keep their place relative to the entries they followed.
fn reorder(items: &mut Vec<Value>, before: &[Value], order: &[Value], merge: &PatchMerge) {
    let identity = |item: &Value| match merge {
        PatchMerge::Scalars => Some(item.clone()),
        PatchMerge::ByKey(key) => item.get(key).cloned(),
    };
    let wanted: Vec<Option<Value>> = order.iter().map(identity).collect();
    let place = |item: &Value| {
        wanted
            .iter()
            .position(|candidate| candidate.is_some() && *candidate == identity(item))
    };
    let was = |item: &Value| {
        before
            .iter()
            .position(|candidate| identity(candidate) == identity(item))
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| place(item).is_some());
    named.sort_by_key(place);
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let named_first = match (named.peek(), others.peek()) {
            (None, None) => return,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            // An entry that is new stays before those the patch does not know.
            (Some(left), Some(right)) => match (was(left), was(right)) {
                (Some(left), Some(right)) => left < right,
                _ => true,
            },
        };
        items.extend(if named_first {
            named.next()
        } else {
            others.next()
        });
    }
}

/// A value from a patch, as it is stored: no directives, no nulls in objects.
fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
        other => other,
    }
}

fn without_directives(map: Object) -> Object {
    let is_directive = |key: &str| {
        key == PATCH || key == RETAIN_KEYS || key.starts_with(ORDER) || key.starts_with(DELETE_FROM)
    };
    map.into_iter()
        .filter(|(key, value)| !is_directive(key) && !value.is_null())
        .map(|(key, value)| (key, strip(value)))
        .collect()
}

fn malformed(text: String) -> PatchError {
    PatchError::Malformed(text)
}
