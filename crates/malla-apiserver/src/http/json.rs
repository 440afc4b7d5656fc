//! Request bodies as JSON values, with the keys that were given twice.
//!
//! `serde_json` bounds the nesting (128) and never recurses deeper; a repeated key keeps its last value, as in Go.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most repeated keys reported.
const MOST: usize = 32;

/// Parses a body; also tells the paths of repeated keys, e.g. `spec.replicas`.
pub(super) fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let twice = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let seed = Node {
        path: String::new(),
        twice: &twice,
    };
    let value = seed.deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, twice.into_inner()))
}

struct Node<'a> {
    path: String,
    twice: &'a RefCell<Vec<String>>,
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

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let seed = Node {
                path: format!("{}[{}]", self.path, list.len()),
                twice: self.twice,
            };
            match items.next_element_seed(seed)? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = match self.path.as_str() {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            let mut twice = self.twice.borrow_mut();
            if object.contains_key(&key) && twice.len() < MOST {
                twice.push(path.clone());
            }
            drop(twice);
            let seed = Node {
                path,
                twice: self.twice,
            };
            let value = entries.next_value_seed(seed)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::parse;

    #[test]
    fn repeated_keys_are_told() {
        let text = br#"{"a": 1, "spec": {"x": [{"k": 1, "k": 2}], "x": []}, "a": 2}"#;
        let (value, twice) = parse(text).unwrap();
        assert_eq!(value, json!({"a": 2, "spec": {"x": []}}));
        assert_eq!(twice, ["spec.x[0].k", "spec.x", "a"]);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
        assert!(parse(b"{} x").is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"a-c0-9.e\- ntrufls]{0,40}"#) {
            let plain: Option<Value> = serde_json::from_str(&text).ok();
            prop_assert_eq!(parse(text.as_bytes()).ok().map(|(value, _)| value), plain);
        }
    }
}
