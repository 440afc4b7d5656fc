//! Walking objects beside their schema: which fields an object has, and how two objects differ.
//!
//! Follows `sigs.k8s.io/structured-merge-diff`. What no schema describes is typed by looking: objects are granular, lists atomic.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::FieldSet;
use crate::schema::node::{ListType, Node};

/// How the entries of a value are told apart.
pub(super) enum Shape<'a> {
    /// One value: scalars, atomic lists and maps.
    Leaf,
    /// Fields.
    Fields(&'a serde_json::Map<String, Value>),
    /// Entries with identities.
    Entries(Vec<(String, &'a Value)>),
}

/// The shape of a value of this node.
pub(super) fn shape<'a>(node: Option<&Node>, value: &'a Value) -> Shape<'a> {
    match value {
        Value::Object(map) if !node.is_some_and(|node| node.atomic_map) => Shape::Fields(map),
        Value::Array(items) => match node.map(|node| &node.list) {
            None | Some(ListType::Atomic) => Shape::Leaf,
            Some(list) => {
                let item_node = node.and_then(|node| node.items.as_deref());
                Shape::Entries(
                    items
                        .iter()
                        .enumerate()
                        .map(|(index, item)| (identity(list, item_node, index, item), item))
                        .collect(),
                )
            }
        },
        _ => Shape::Leaf,
    }
}

/// The path element of a list entry; entries without a key are told apart by their index.
fn identity(list: &ListType, item_node: Option<&Node>, index: usize, item: &Value) -> String {
    match list {
        ListType::Atomic => format!("i:{index}"),
        ListType::Set => format!("v:{item}"),
        ListType::Map(keys) => {
            let values: Option<BTreeMap<&String, Value>> = keys
                .iter()
                .map(|key| {
                    let default = || {
                        item_node
                            .and_then(|node| node.properties.get(key))
                            .and_then(|node| node.default.clone())
                    };
                    item.get(key)
                        .cloned()
                        .or_else(default)
                        .map(|value| (key, value))
                })
                .collect();
            let written = values.and_then(|values| serde_json::to_string(&values).ok());
            written.map_or_else(|| format!("i:{index}"), |keys| format!("k:{keys}"))
        }
    }
}

/// The node of a field or entry.
pub(super) fn child<'a>(node: Option<&'a Node>, element: &str) -> Option<&'a Node> {
    match element.strip_prefix("f:") {
        Some(field) => node.and_then(|node| node.field(field)).map(AsRef::as_ref),
        None => node.and_then(|node| node.items.as_deref()),
    }
}

/// All fields an object sets.
pub(super) fn fields_of(node: &Node, object: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(Some(node), object, &mut Vec::new(), &mut set);
    set
}

fn collect(node: Option<&Node>, value: &Value, path: &mut Vec<String>, set: &mut FieldSet) {
    match shape(node, value) {
        Shape::Leaf => set.insert(path),
        Shape::Fields(map) => {
            for (field, value) in map {
                path.push(format!("f:{field}"));
                collect(child(node, &format!("f:{field}")), value, path, set);
                let declared = node.is_some_and(|node| node.properties.contains_key(field));
                // An empty list is owned as an empty map is, or applying it twice would differ.
                if !declared || is_empty(value) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::Entries(entries) => {
            for (element, item) in entries {
                path.push(element);
                collect(node.and_then(|node| node.items.as_deref()), item, path, set);
                set.insert(path);
                path.pop();
            }
        }
    }
}

/// The first entry of an applied list that cannot be told apart, as structured-merge-diff words it.
pub(super) fn ambiguity(node: Option<&Node>, value: &Value, path: &str) -> Option<String> {
    match shape(node, value) {
        Shape::Leaf => None,
        Shape::Fields(map) => map.iter().find_map(|(field, value)| {
            ambiguity(
                child(node, &format!("f:{field}")),
                value,
                &format!("{path}.{field}"),
            )
        }),
        Shape::Entries(entries) => {
            let mut seen = std::collections::HashSet::new();
            for (index, (element, item)) in entries.iter().enumerate() {
                if element.starts_with("i:") {
                    let keys = match node.map(|node| &node.list) {
                        Some(ListType::Map(keys)) => keys.join(", "),
                        _ => String::new(),
                    };
                    return Some(format!(
                        "{path}: element {index}: associative list with keys has an element that omits key field {keys:?} (and doesn't have default value)"
                    ));
                }
                let at = format!("{path}{}", super::set::display(&[element]));
                if !seen.insert(element.clone()) {
                    return Some(format!(
                        "{path}: duplicate entries for key {}",
                        super::set::display(&[element])
                    ));
                }
                if let Some(problem) =
                    ambiguity(node.and_then(|node| node.items.as_deref()), item, &at)
                {
                    return Some(problem);
                }
            }
            None
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

/// How a new object differs from an old one.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Fields only the new object has, parents included.
    pub(super) added: FieldSet,
    /// Leaves with another value.
    pub(super) modified: FieldSet,
    /// Fields only the old object has, parents included.
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Compares two objects of the same shape.
    pub(super) fn of(node: &Node, old: &Value, new: &Value) -> Self {
        let mut comparison = Self::default();
        comparison.walk(Some(node), Some(old), Some(new), &mut Vec::new());
        comparison
    }

    fn walk(
        &mut self,
        node: Option<&Node>,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        if old == new {
            return;
        }
        let empty = |value: Option<&Value>| value.is_none_or(is_empty);
        let shapes = (
            old.map(|value| shape(node, value)),
            new.map(|value| shape(node, value)),
        );
        let both_empty = empty(old) && empty(new);
        match shapes {
            (Some(Shape::Fields(old)), Some(Shape::Fields(new))) if !both_empty => {
                self.walk_fields(node, Some(old), Some(new), path)
            }
            (Some(Shape::Fields(old)), None) if !both_empty => {
                self.walk_fields(node, Some(old), None, path)
            }
            (None, Some(Shape::Fields(new))) if !both_empty => {
                self.walk_fields(node, None, Some(new), path)
            }
            (Some(Shape::Entries(old)), Some(Shape::Entries(new))) if !both_empty => {
                self.walk_entries(node, old, new, path)
            }
            (Some(Shape::Entries(old)), None) if !both_empty => {
                self.walk_entries(node, old, Vec::new(), path)
            }
            (None, Some(Shape::Entries(new))) if !both_empty => {
                self.walk_entries(node, Vec::new(), new, path)
            }
            // Leaves, and values that change their shape.
            (Some(_), Some(_)) => {
                self.modified.insert(path);
                return;
            }
            _ => {}
        }
        match (old, new) {
            (None, Some(_)) => self.added.insert(path),
            (Some(_), None) => self.removed.insert(path),
            _ => {}
        }
    }

    fn walk_fields(
        &mut self,
        node: Option<&Node>,
        old: Option<&serde_json::Map<String, Value>>,
        new: Option<&serde_json::Map<String, Value>>,
        path: &mut Vec<String>,
    ) {
        let only_old = old
            .into_iter()
            .flat_map(|old| old.keys())
            .filter(|field| new.is_none_or(|new| !new.contains_key(*field)));
        for field in new.into_iter().flat_map(|new| new.keys()).chain(only_old) {
            let element = format!("f:{field}");
            let schema = child(node, &element);
            path.push(element);
            self.walk(
                schema,
                old.and_then(|old| old.get(field)),
                new.and_then(|new| new.get(field)),
                path,
            );
            path.pop();
        }
    }

    fn walk_entries(
        &mut self,
        node: Option<&Node>,
        old: Vec<(String, &Value)>,
        new: Vec<(String, &Value)>,
        path: &mut Vec<String>,
    ) {
        // Lists that were written before they were checked may repeat an identity: then the entries are compared as one.
        let mut entries: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (element, value) in old {
            entries.entry(element).or_default().0.push(value);
        }
        for (element, value) in new {
            entries.entry(element).or_default().1.push(value);
        }
        let item_node = node.and_then(|node| node.items.as_deref());
        for (element, (old, new)) in entries {
            path.push(element);
            match (old.as_slice(), new.as_slice()) {
                ([old], [new]) => self.walk(item_node, Some(old), Some(new), path),
                ([old], []) => self.walk(item_node, Some(old), None, path),
                ([], [new]) => self.walk(item_node, None, Some(new), path),
                (old, new) if old == new => {}
                ([], _) => self.added.insert(path),
                (_, []) => self.removed.insert(path),
                _ => self.modified.insert(path),
            }
            path.pop();
        }
    }

    /// Without these paths and all below them.
    pub(super) fn excluding(mut self, ignored: &FieldSet) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            *set = set.recursive_difference(ignored);
        }
        self
    }
}
