//! Sets of field paths, as `metadata.managedFields[*].fieldsV1` holds them.
//!
//! A path is a list of elements in their FieldsV1 spelling: `f:name` (a field), `k:{"name":"web"}` (an entry of a map list),
//! `v:"x"` (an entry of a set), `i:0` (an entry without identity). Invariant: keys in `k:` are sorted and compact, so equal
//! elements are equal text; no branch of the tree is empty.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::node::Node;

/// Deepest set that is read; deeper ones are ignored as malformed.
const MAX_DEPTH: usize = 128;

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet(BTreeMap<String, Branch>);

/// What is in the set at one element: the element itself, and paths below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Branch {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a path. The empty path is not tracked.
    pub(super) fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let branch = self.0.entry(first.clone()).or_default();
        if rest.is_empty() {
            branch.member = true;
        } else {
            branch.below.insert(rest);
        }
    }

    /// Whether this element itself is in the set.
    pub(super) fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|branch| branch.member)
    }

    /// The paths below an element.
    pub(super) fn below(&self, element: &str) -> Option<&Self> {
        self.0
            .get(element)
            .map(|branch| &branch.below)
            .filter(|below| !below.is_empty())
    }

    pub(super) fn union(mut self, other: &Self) -> Self {
        for (element, theirs) in &other.0 {
            let mine = self.0.entry(element.clone()).or_default();
            mine.member |= theirs.member;
            mine.below = std::mem::take(&mut mine.below).union(&theirs.below);
        }
        self
    }

    /// Without exactly these paths; paths below them stay.
    pub(super) fn difference(&self, other: &Self) -> Self {
        self.combine(
            other,
            |mine, theirs| mine && !theirs,
            |mine, theirs| match theirs {
                Some(theirs) => mine.difference(theirs),
                None => mine.clone(),
            },
        )
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(
            other,
            |mine, theirs| mine && theirs,
            |mine, theirs| theirs.map_or_else(Self::default, |theirs| mine.intersection(theirs)),
        )
    }

    /// Without these paths and all below them.
    pub(super) fn recursive_difference(&self, other: &Self) -> Self {
        let mut result = Self::default();
        for (element, mine) in &self.0 {
            match other.0.get(element) {
                Some(theirs) if theirs.member => {}
                Some(theirs) => {
                    let below = mine.below.recursive_difference(&theirs.below);
                    result.keep(
                        element,
                        Branch {
                            member: mine.member,
                            below,
                        },
                    );
                }
                None => result.keep(element, mine.clone()),
            }
        }
        result
    }

    fn combine(
        &self,
        other: &Self,
        member: fn(bool, bool) -> bool,
        below: fn(&Self, Option<&Self>) -> Self,
    ) -> Self {
        let mut result = Self::default();
        for (element, mine) in &self.0 {
            let theirs = other.0.get(element);
            let branch = Branch {
                member: member(mine.member, theirs.is_some_and(|theirs| theirs.member)),
                below: below(&mine.below, theirs.map(|theirs| &theirs.below)),
            };
            result.keep(element, branch);
        }
        result
    }

    fn keep(&mut self, element: &str, branch: Branch) {
        if branch.member || !branch.below.is_empty() {
            self.0.insert(element.to_owned(), branch);
        }
    }

    /// Also with every declared field on the way to a path: who owns `spec.replicas` keeps `spec` alive.
    pub(super) fn with_named_parents(&self, node: Option<&Node>) -> Self {
        let mut result = Self::default();
        for (element, branch) in &self.0 {
            let field = element.strip_prefix("f:");
            let declared = field
                .is_some_and(|field| node.is_some_and(|node| node.properties.contains_key(field)));
            let child = match field {
                Some(field) => node.and_then(|node| node.field(field)),
                None => node.and_then(|node| node.items.as_ref()),
            };
            let below = branch.below.with_named_parents(child.map(AsRef::as_ref));
            result.keep(
                element,
                Branch {
                    member: branch.member || declared,
                    below,
                },
            );
        }
        result
    }

    /// All paths, parents first.
    pub(super) fn paths(&self) -> Vec<Vec<&str>> {
        let mut paths = Vec::new();
        for (element, branch) in &self.0 {
            if branch.member {
                paths.push(vec![element.as_str()]);
            }
            paths.extend(
                branch
                    .below
                    .paths()
                    .into_iter()
                    .map(|rest| std::iter::once(element.as_str()).chain(rest).collect()),
            );
        }
        paths
    }

    /// Reads FieldsV1; `None` if it is malformed.
    pub(super) fn parse(fields: &Value) -> Option<Self> {
        Self::parse_within(fields, MAX_DEPTH)
    }

    fn parse_within(fields: &Value, depth: usize) -> Option<Self> {
        let mut set = Self::default();
        for (element, below) in fields.as_object()? {
            if element == "." {
                continue;
            }
            let below_map = below.as_object()?;
            let member = below_map.is_empty() || below_map.contains_key(".");
            let below = Self::parse_within(below, depth.checked_sub(1)?)?;
            set.keep(&canonical(element)?, Branch { member, below });
        }
        Some(set)
    }

    /// Writes FieldsV1.
    pub(super) fn to_fields(&self) -> Value {
        let mut fields = Map::new();
        for (element, branch) in &self.0 {
            let mut below = match branch.below.to_fields() {
                Value::Object(below) => below,
                _ => Map::new(),
            };
            if branch.member && !below.is_empty() {
                below.shift_insert(0, ".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(element.clone(), Value::Object(below));
        }
        Value::Object(fields)
    }
}

/// The one spelling of an element; `None` if it is none.
fn canonical(element: &str) -> Option<String> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" => Some(element.to_owned()),
        "i" => rest.parse::<usize>().ok().map(|index| format!("i:{index}")),
        "v" => serde_json::from_str::<Value>(rest)
            .ok()
            .map(|value| format!("v:{value}")),
        "k" => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
            serde_json::to_string(&keys)
                .ok()
                .map(|keys| format!("k:{keys}"))
        }
        _ => None,
    }
}

/// A path as conflicts print it: `.spec.containers[name="web"].image`.
pub(super) fn display(path: &[&str]) -> String {
    let mut text = String::new();
    for element in path {
        match element.split_once(':') {
            Some(("f", field)) => {
                text.push('.');
                text.push_str(field);
            }
            Some(("k", keys)) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
            Some(("v", value)) => text.push_str(&format!("[={value}]")),
            _ => text.push_str(&format!("[{}]", element.trim_start_matches("i:"))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{FieldSet, display};

    #[test]
    fn fields_v1_reads_and_writes_itself() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}}}, "f:finalizers": {r#"v:"x""#: {}}},
        });
        let set = FieldSet::parse(&fields).unwrap();
        assert_eq!(
            set.to_fields(),
            json!({
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:finalizers": {r#"v:"x""#: {}}, "f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}}}},
            })
        );
        let odd = json!({r#"k:{ "protocol":"TCP", "port":80}"#: {}});
        assert_eq!(
            FieldSet::parse(&odd).unwrap().to_fields(),
            json!({r#"k:{"port":80,"protocol":"TCP"}"#: {}})
        );
        assert_eq!(FieldSet::parse(&json!({"spec": {}})), None);
    }

    #[test]
    fn paths_print_as_kubernetes_prints_them() {
        let path = ["f:spec", "f:containers", r#"k:{"name":"web"}"#, "f:image"];
        assert_eq!(display(&path), r#".spec.containers[name="web"].image"#);
        assert_eq!(
            display(&["f:metadata", "f:finalizers", r#"v:"x""#]),
            r#".metadata.finalizers[="x"]"#
        );
    }

    #[test]
    fn differences_are_exact_or_recursive() {
        let parse = |fields| FieldSet::parse(&fields).unwrap();
        let all = parse(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let a = parse(json!({"f:a": {}}));
        assert_eq!(
            all.difference(&a),
            parse(json!({"f:a": {"f:b": {}}, "f:c": {}}))
        );
        assert_eq!(all.recursive_difference(&a), parse(json!({"f:c": {}})));
        assert_eq!(all.intersection(&a), a);
    }
}
