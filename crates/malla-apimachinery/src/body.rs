//! Request bodies: JSON to values, remembering keys that appear twice.
//!
//! `serde_json` keeps the last of two equal keys without a word; kube-apiserver names them (`duplicate field "spec.replicas"`).
//! Invariant: the value is what `serde_json::from_slice` gives.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::schema::node::join;

/// Most duplicates that are remembered.
const MAX_DUPLICATES: usize = 100;

/// Parses a JSON document; also the paths of keys that appear more than once in one object.
pub fn parse_json(body: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(body);
    let seed = Node {
        path: String::new(),
        duplicates: &mut duplicates,
    };
    let value = seed.deserialize(&mut parser)?;
    parser.end()?;
    Ok((value, duplicates))
}

struct Node<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            let Some(item) = entries.next_element_seed(Node {
                path,
                duplicates: self.duplicates,
            })?
            else {
                return Ok(Value::Array(items));
            };
            items.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = join(&self.path, &key);
            if map.contains_key(&key) && self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(path.clone());
            }
            let value = entries.next_value_seed(Node {
                path,
                duplicates: self.duplicates,
            })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};
    use serde_json::Value;

    use super::parse_json;

    #[test]
    fn keys_that_appear_twice_are_named() {
        let (value, duplicates) =
            parse_json(br#"{"a": 1, "s": {"l": [{"x": 1, "x": 2}]}, "a": 3}"#).unwrap();
        assert_eq!(value, serde_json::json!({"a": 3, "s": {"l": [{"x": 2}]}}));
        assert_eq!(duplicates, ["s.l[0].x", "a"]);
        for bad in ["", "{", "{} {}", "nul", "1e999"] {
            assert!(parse_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(
            parse_json("[".repeat(100_000).as_bytes()).is_err(),
            "nesting has a limit"
        );
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = any::<Option<i64>>().prop_map(Value::from);
        leaf.prop_recursive(4, 32, 4, |inner| {
            let map = prop::collection::btree_map("[a-c]{0,2}", inner.clone(), 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()));
            prop::strategy::Union::new([
                map.boxed(),
                prop::collection::vec(inner, 0..4)
                    .prop_map(Value::from)
                    .boxed(),
            ])
        })
    }

    proptest! {
        #[test]
        fn values_are_those_of_serde_json(value in json()) {
            let (parsed, duplicates) = parse_json(value.to_string().as_bytes()).unwrap();
            prop_assert_eq!(parsed, value);
            prop_assert_eq!(duplicates, Vec::<String>::new());
        }
    }
}
