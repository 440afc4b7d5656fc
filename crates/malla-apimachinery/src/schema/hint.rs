//! Which field was meant by one that the schema does not know.

use std::collections::VecDeque;
use std::sync::Arc;

use super::node::{Additional, Node};

/// The field meant by the unknown one at `path` (`spec.http[0].fault`): a sibling of nearly the same name, else the
/// shallowest place where a field of that name stands, as `spec.http[].fault`.
pub(super) fn meant(root: &Arc<Node>, path: &str) -> Option<String> {
    let (parent_path, name) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parent_path
        .split('.')
        .filter(|segment| !segment.is_empty())
        .try_fold(root, |node, segment| step(node, segment));
    let sibling =
        parent.and_then(|parent| parent.properties.keys().find(|known| is_slip(name, known)));
    match sibling {
        Some(sibling) if parent_path.is_empty() => Some(sibling.clone()),
        Some(sibling) => Some(format!("{parent_path}.{sibling}")),
        None => place_of(root, name),
    }
}

/// One segment of a path: a field, and the items of it where an index follows.
fn step<'n>(node: &'n Arc<Node>, segment: &str) -> Option<&'n Arc<Node>> {
    let (name, indexes) = segment
        .split_once('[')
        .map_or((segment, 0), |(name, rest)| {
            (name, rest.matches(']').count())
        });
    (0..indexes).try_fold(node.field(name)?, |list, _| list.items.as_ref())
}

/// Whether two names differ only in case, `_` and `-`, or in up to two letters at the end.
fn is_slip(wrong: &str, known: &str) -> bool {
    let plain = |text: &str| text.replace(['_', '-'], "").to_lowercase();
    let (wrong, known) = (plain(wrong), plain(known));
    let tail = wrong
        .strip_prefix(&known)
        .or_else(|| known.strip_prefix(&wrong));
    wrong.len().min(known.len()) > 2 && tail.is_some_and(|tail| tail.len() <= 2)
}

fn place_of(root: &Arc<Node>, name: &str) -> Option<String> {
    let mut queue = VecDeque::from([(String::new(), root)]);
    while let Some((path, node)) = queue.pop_front() {
        let dotted = |field: &str| {
            if path.is_empty() {
                field.to_owned()
            } else {
                format!("{path}.{field}")
            }
        };
        if node.properties.contains_key(name) {
            return Some(dotted(name));
        }
        // The status is not the user's to write.
        let written = node
            .properties
            .iter()
            .filter(|(field, _)| !(path.is_empty() && *field == "status"));
        queue.extend(written.map(|(field, inner)| (dotted(field), inner)));
        if let Some(items) = &node.items {
            queue.push_back((format!("{path}[]"), items));
        }
        if let Additional::Schema(values) = &node.additional {
            queue.push_back((dotted("<name>"), values));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::schema::Schema;

    #[test]
    fn misplaced_and_misspelled_fields_are_told_what_was_meant() {
        let text = json!({"type": "string"});
        let route = json!({"type": "object", "properties": {
            "match": {"type": "array", "items": {"type": "object", "properties": {"uri": text}}},
            "route": text, "fault": text, "perTryTimeout": text}});
        let schema = Schema::from_crd(
            &json!({"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "hosts": text, "http": {"type": "array", "items": route}}},
                "status": {"type": "object", "properties": {"secret": text}}}}),
            "schema",
        )
        .unwrap();
        for (unknown, meant) in [
            ("spec.fault", Some("spec.http[].fault")),
            ("spec.http[0].match[1].route", Some("spec.http[].route")),
            ("spec.host", Some("spec.hosts")),
            (
                "spec.http[0].per_try_timeout",
                Some("spec.http[0].perTryTimeout"),
            ),
            ("http", Some("spec.http")),
            ("spec.secret", None),
            ("spec.nonsense", None),
        ] {
            assert_eq!(schema.meant(unknown).as_deref(), meant, "{unknown}");
        }
    }
}
