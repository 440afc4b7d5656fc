//! YAML as users write and read it: documents with their lines, fields with theirs, and objects
//! without what only machines put there.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::error::ApiError;

/// Most documents in one text.
const MOST_DOCUMENTS: usize = 100;
/// Kubernetes clients keep their last applied form here.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What the API server, not an author, writes into `metadata`.
const SERVER_FIELDS: [&str; 6] = [
    "managedFields",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
];

/// One document of a text.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// Line of the text the document starts at, from 1.
    first: u64,
    tree: Tree,
}

/// A text that is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotYaml {
    pub(crate) line: Option<u64>,
    pub(crate) message: String,
}

impl From<NotYaml> for ApiError {
    fn from(error: NotYaml) -> Self {
        let line = error
            .line
            .map(|line| format!("line {line}: "))
            .unwrap_or_default();
        Self::invalid(format!("not YAML: {line}{}", error.message)).at("yaml")
    }
}

/// Reads every document that says something.
///
/// # Errors
/// At the first one that is no YAML, and when there are more than a hundred.
pub(crate) fn documents(text: &str) -> Result<Vec<Document>, NotYaml> {
    let parts = split(text);
    if parts.len() > MOST_DOCUMENTS {
        return Err(NotYaml {
            line: None,
            message: format!(
                "{} documents; at most {MOST_DOCUMENTS} at a time",
                parts.len()
            ),
        });
    }
    let mut documents = Vec::with_capacity(parts.len());
    for (first, part) in parts {
        let bad = |error: serde_saphyr::Error| NotYaml {
            line: error
                .location()
                .map(|at| first + at.line().saturating_sub(1)),
            message: first_line(&error.to_string()),
        };
        let value: Value = serde_saphyr::from_str(&part).map_err(bad)?;
        if value.is_null() {
            continue;
        }
        let tree: Tree = serde_saphyr::from_str::<Spanned<Tree>>(&part)
            .map_err(bad)?
            .value;
        documents.push(Document { value, first, tree });
    }
    Ok(documents)
}

impl Document {
    /// The line of the text a field such as `spec.http[0].route` stands on, or of the nearest field
    /// around it that is there.
    pub(crate) fn line_of(&self, path: &str) -> u64 {
        let mut at = 1;
        let mut here = Some(&self.tree);
        for step in steps(path) {
            let Some((line, below)) = here.and_then(|tree| tree.step(step)) else {
                break;
            };
            at = line;
            here = Some(below);
        }
        self.first + u64::from(at).saturating_sub(1)
    }
}

/// Documents with the line of their first content, from 1.
fn split(text: &str) -> Vec<(u64, String)> {
    let mut parts: Vec<(u64, String)> = Vec::new();
    let mut open = false;
    for (line, number) in text.lines().zip(1_u64..) {
        if line == "---" || line.starts_with("--- ") || line == "..." {
            open = false;
            continue;
        }
        let silent = line.trim().is_empty() || line.trim_start().starts_with('#');
        match parts.last_mut().filter(|_| open) {
            Some((_, part)) => {
                part.push_str(line);
                part.push('\n');
            }
            None if silent => {}
            None => {
                parts.push((number, format!("{line}\n")));
                open = true;
            }
        }
    }
    parts
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let mut pieces = part.split('[');
        steps.extend(
            pieces
                .next()
                .filter(|name| !name.is_empty())
                .map(Step::Field),
        );
        for piece in pieces {
            let index = piece.trim_end_matches(']');
            steps.push(index.parse().map_or(Step::Field(index), Step::Item));
        }
    }
    steps
}

/// A document's shape with the line of every field.
#[derive(Debug)]
enum Tree {
    Leaf,
    Map(Vec<(String, u32, Tree)>),
    List(Vec<(u32, Tree)>),
}

impl Tree {
    fn step(&self, step: Step<'_>) -> Option<(u32, &Self)> {
        match (self, step) {
            (Self::Map(fields), Step::Field(name)) => {
                let found = fields.iter().find(|(known, _, _)| known == name);
                found.map(|(_, line, below)| (*line, below))
            }
            (Self::List(items), Step::Item(index)) => {
                items.get(index).map(|(line, below)| (*line, below))
            }
            _ => None,
        }
    }
}

fn line<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Shape)
    }
}

struct Shape;

/// Scalars of every type are leaves.
macro_rules! leaves {
    ($($visit:ident($type:ty),)*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Tree, E> { Ok(Tree::Leaf) })*
    };
}

impl<'de> Visitor<'de> for Shape {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    leaves! {
        visit_bool(bool), visit_i64(i64), visit_i128(i128), visit_u64(u64), visit_u128(u128),
        visit_f64(f64), visit_str(&str), visit_bytes(&[u8]),
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Tree>>()? {
            list.push((line(&item), item.value));
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = fields.next_key::<Spanned<Key>>()? {
            let at = line(&key);
            match key.value.0 {
                Some(name) => map.push((name, at, fields.next_value::<Spanned<Tree>>()?.value)),
                None => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Tree::Map(map))
    }
}

/// A key that is text; others name no field.
struct Key(Option<String>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer).ok()))
    }
}

/// The object as its author could have written it: no status, nothing the server filled in.
pub(crate) fn authored(object: &Value) -> Value {
    let mut object = object.clone();
    let Some(top) = object.as_object_mut() else {
        return object;
    };
    top.remove("status");
    if let Some(metadata) = top.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_FIELDS {
            metadata.remove(field);
        }
        let annotations = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut);
        let empty = annotations.is_some_and(|annotations| {
            annotations.remove(LAST_APPLIED);
            annotations.is_empty()
        });
        if empty {
            metadata.remove("annotations");
        }
    }
    let mut ordered = serde_json::Map::new();
    for field in ["apiVersion", "kind", "metadata"] {
        ordered.extend(top.remove(field).map(|value| (field.to_owned(), value)));
    }
    ordered.append(top);
    Value::Object(ordered)
}

/// [`authored`] as YAML.
pub(crate) fn print(object: &Value) -> String {
    // What came in as JSON can be written as YAML.
    serde_saphyr::to_string(&authored(object)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "# a comment\nkind: A\nspec:\n  hosts:\n    - one\n    - two\n---\n\nkind: B\nspec:\n  http:\n    - match: [{uri: {exact: /}}]\n      route:\n        - destination:\n            host: x\n          weight: 3\n";

    #[test]
    fn fields_know_their_lines() {
        let documents = documents(TEXT).unwrap();
        let check = |document: usize, path: &str| documents[document].line_of(path);
        assert_eq!(check(0, "kind"), 2);
        assert_eq!(check(0, "spec.hosts[1]"), 6);
        assert_eq!(check(1, "spec"), 10);
        assert_eq!(check(1, "spec.http[0].route[0].weight"), 16);
        assert_eq!(check(1, "spec.http[0].match[0].uri.exact"), 12);
        // What is not there is reported where it should be.
        assert_eq!(
            check(1, "spec.http[0].route[0].destination.port.number"),
            14
        );
        assert_eq!(check(1, "status"), 9);
        assert_eq!(documents[1].value["kind"], "B");
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let error = documents("a: 1\n---\nb: [1\nc: 2\n").unwrap_err();
        assert!(error.line.is_some_and(|line| line >= 3), "{error:?}");
        assert!(documents("").unwrap().is_empty());
        assert!(documents("# nothing\n---\n").unwrap().is_empty());
        assert!(documents(&"---\na: 1\n".repeat(101)).is_err());
        // A bomb of aliases is refused by the parser's own budget, not by our memory.
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{},", level - 1).repeat(10);
            bomb += &format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(','));
        }
        assert!(documents(&bomb).is_err());
    }

    #[test]
    fn authors_see_what_authors_wrote() {
        let object = json!({
            "status": {}, "spec": {"a": 1}, "kind": "K", "apiVersion": "v1",
            "metadata": {"name": "web", "uid": "u", "managedFields": [], "annotations": {LAST_APPLIED: "{}"}},
        });
        assert_eq!(
            print(&object),
            "apiVersion: v1\nkind: K\nmetadata:\n  name: web\nspec:\n  a: 1\n"
        );
    }
}
