//! Who owns whom, by uid.
//!
//! Pure. Invariant: `dependents` always mirrors the owners of the nodes.

use std::collections::{BTreeMap, BTreeSet};

use malla_apiserver::Resource;
use serde_json::Value;

use crate::object::{Key, text};

/// An owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) blocks: bool,
}

/// An object, as far as its owners go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) resource: Resource,
    pub(super) key: Key,
    pub(super) owners: Vec<Owner>,
    ending: bool,
}

impl Node {
    pub(super) fn of(resource: Resource, key: Key, object: &Value) -> Self {
        let owners = object
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array);
        let owner = |owner: &Value| Owner {
            api_version: text(owner, "/apiVersion").to_owned(),
            kind: text(owner, "/kind").to_owned(),
            name: text(owner, "/name").to_owned(),
            uid: text(owner, "/uid").to_owned(),
            blocks: owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)),
        };
        Self {
            resource,
            key,
            owners: owners.into_iter().flatten().map(owner).collect(),
            ending: object.pointer("/metadata/deletionTimestamp").is_some(),
        }
    }
}

/// All objects and their owners.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: BTreeMap<String, Node>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid))
            .cloned()
            .collect()
    }

    /// Takes an object's state; returns the uids that should be looked at.
    pub(super) fn put(&mut self, uid: String, node: Node) -> Vec<String> {
        let known = self.nodes.get(&uid);
        if known == Some(&node) {
            return Vec::new();
        }
        self.unlink(&uid);
        for owner in &node.owners {
            let all = self.dependents.entry(owner.uid.clone()).or_default();
            all.insert(uid.clone());
        }
        let mut affected = Vec::new();
        if node.ending || !node.owners.is_empty() {
            affected.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        affected
    }

    /// Forgets an object; returns its dependents, and owners that may wait for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let mut affected: Vec<String> = self
            .dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if let Some(node) = self.nodes.remove(uid) {
            affected.extend(node.owners.into_iter().map(|owner| owner.uid));
        }
        affected
    }

    fn unlink(&mut self, uid: &str) {
        let owners = self
            .nodes
            .get(uid)
            .map(|node| node.owners.clone())
            .unwrap_or_default();
        for owner in owners {
            if let Some(all) = self.dependents.get_mut(&owner.uid) {
                all.remove(uid);
                if all.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use malla_apiserver::kinds;
    use serde_json::json;

    use super::{Graph, Node};
    use crate::object::Key;

    fn node(name: &str, owners: &[&str]) -> Node {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"uid": uid, "kind": "X"}))
            .collect();
        let object = json!({"metadata": {"name": name, "ownerReferences": owners}});
        Node::of(kinds::PODS, Key::new("a", name), &object)
    }

    #[test]
    fn the_end_of_an_owner_concerns_its_dependents() {
        let mut graph = Graph::default();
        assert!(graph.put("o".to_owned(), node("o", &[])).is_empty());
        assert_eq!(graph.put("d".to_owned(), node("d", &["o", "p"])), ["d"]);
        assert!(graph.put("d".to_owned(), node("d", &["o", "p"])).is_empty());
        assert_eq!(graph.remove("o"), ["d"]);
        assert_eq!(graph.put("d".to_owned(), node("d", &["p"])), ["d"]);
        assert!(graph.dependents("o").is_empty());
        assert_eq!(graph.remove("d"), ["p"]);
        assert!(graph.dependents("p").is_empty());
    }
}
