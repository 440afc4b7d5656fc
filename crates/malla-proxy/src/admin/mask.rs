//! `?mask=`: only some fields, by a protobuf `FieldMask` in text (`cluster.name,version_info`).
//!
//! As in protobuf, a path may lead through messages, not through lists.
use serde_json::{Map, Value};

/// What is left of `value`; `None` if no path of the mask says a field of it.
pub(super) fn apply(value: &Value, mask: &str, known: &[&str]) -> Option<Value> {
    let fields = value.as_object()?;
    let mut out = Map::new();
    if let Some(url) = fields.get("@type") {
        out.insert("@type".to_owned(), url.clone());
    }
    let mut applied = false;
    for path in mask.split(',').filter(|path| !path.is_empty()) {
        let parts: Vec<&str> = path.split('.').collect();
        applied |= keep(fields, &parts, &mut out)
            || parts
                .first()
                .is_some_and(|first| parts.len() == 1 && known.contains(first));
    }
    applied.then_some(Value::Object(out))
}

fn keep(from: &Map<String, Value>, path: &[&str], into: &mut Map<String, Value>) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    let Some(value) = from.get(*first) else {
        return false;
    };
    if rest.is_empty() {
        into.insert((*first).to_owned(), value.clone());
        return true;
    }
    let Some(inner) = value.as_object() else {
        return false;
    };
    let slot = into
        .entry((*first).to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    slot.as_object_mut()
        .is_some_and(|slot| keep(inner, rest, slot))
}

#[cfg(test)]
mod tests {
    use super::apply;
    use serde_json::{Value, json};

    #[test]
    fn fields_are_kept_through_messages_only() {
        let value = json!({ "@type": "t", "a": { "b": 1, "c": { "d": 2 } }, "list": [ { "x": 1 } ], "e": 3 });
        let check = |mask: &str, want: Option<Value>| {
            assert_eq!(apply(&value, mask, &["none"]), want, "{mask}")
        };
        check("a.b", Some(json!({ "@type": "t", "a": { "b": 1 } })));
        check(
            "a.b,a.c.d,e",
            Some(json!({ "@type": "t", "a": { "b": 1, "c": { "d": 2 } }, "e": 3 })),
        );
        check(
            "list",
            Some(json!({ "@type": "t", "list": [ { "x": 1 } ] })),
        );
        check("list.x", None);
        check("bogus", None);
        check("none", Some(json!({ "@type": "t" })));
        check("", None);
    }
}
