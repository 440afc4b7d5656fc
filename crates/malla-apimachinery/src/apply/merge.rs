//! Merging an applied configuration into the live object, and removing fields from it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::FieldSet;
use super::typed::{Shape, child, shape};
use crate::schema::node::Node;

/// The live value with everything the configuration says.
pub(super) fn merge(node: Option<&Node>, live: &Value, config: &Value) -> Value {
    match (shape(node, live), shape(node, config)) {
        (Shape::Fields(live), Shape::Fields(config)) => {
            let mut merged = live.clone();
            for (field, value) in config {
                let schema = child(node, &format!("f:{field}"));
                let value = match live.get(field) {
                    Some(live) => merge(schema, live, value),
                    None => value.clone(),
                };
                merged.insert(field.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Entries(live), Shape::Entries(config)) => {
            Value::Array(merge_entries(node, &live, &config))
        }
        _ => config.clone(),
    }
}

/// Entries in the order of the configuration, with the live ones it does not name kept in place between them
/// (structured-merge-diff's `mergingWalker.visitListItems`).
fn merge_entries(
    node: Option<&Node>,
    live: &[(String, &Value)],
    config: &[(String, &Value)],
) -> Vec<Value> {
    let item_node = node.and_then(|node| node.items.as_deref());
    let mut live_by_element: HashMap<&str, &Value> = HashMap::new();
    for (element, value) in live {
        live_by_element.entry(element).or_insert(value);
    }
    let configured: HashSet<&str> = config.iter().map(|(element, _)| element.as_str()).collect();
    let mut shared = config
        .iter()
        .map(|(element, _)| element.as_str())
        .filter(|element| live_by_element.contains_key(element))
        .peekable();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut done: HashSet<&str> = HashSet::new();
    let (mut left, mut right) = (0, 0);
    loop {
        let (next_live, next_config) = (live.get(left), config.get(right));
        if let (Some((element, _)), Some((wanted, _))) = (next_live, next_config) {
            let element = element.as_str();
            // A shared entry whose turn in the configuration's order has not come.
            if element != wanted.as_str()
                && configured.contains(element)
                && shared.peek().is_some_and(|next| *next != element)
            {
                left += 1;
                continue;
            }
        }
        if let Some((element, value)) = next_live {
            if !configured.contains(element.as_str()) {
                merged.push((*value).clone());
                left += 1;
                continue;
            }
            if done.contains(element.as_str()) {
                left += 1;
                continue;
            }
        }
        let Some((element, value)) = next_config else {
            if next_live.is_none() {
                return merged;
            }
            left += 1;
            continue;
        };
        let element = element.as_str();
        merged.push(match live_by_element.get(element) {
            Some(live) => merge(item_node, live, value),
            None => (*value).clone(),
        });
        done.insert(element);
        right += 1;
        if next_live.is_some_and(|(live, _)| live == element) {
            left += 1;
        }
        shared.next_if_eq(&element);
    }
}

/// The value without the fields and entries in the set.
pub(super) fn remove(node: Option<&Node>, value: &Value, removed: &FieldSet) -> Value {
    match shape(node, value) {
        Shape::Leaf => value.clone(),
        Shape::Fields(map) => {
            let mut kept = Map::new();
            for (field, value) in map {
                let element = format!("f:{field}");
                if !removed.has(&element) {
                    kept.insert(field.clone(), remove_below(node, &element, value, removed));
                }
            }
            Value::Object(kept)
        }
        Shape::Entries(entries) => {
            let kept = entries
                .into_iter()
                .filter(|(element, _)| !removed.has(element));
            Value::Array(
                kept.map(|(element, value)| remove_below(node, &element, value, removed))
                    .collect(),
            )
        }
    }
}

fn remove_below(node: Option<&Node>, element: &str, value: &Value, removed: &FieldSet) -> Value {
    match removed.below(element) {
        Some(below) => remove(child(node, element), value, below),
        None => value.clone(),
    }
}
