//! JSON and YAML to messages.

use std::fmt;

use prost::{Message, Name};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::encode::{Encoder, Path};
use crate::Any;
use crate::type_url::{PREFIX, message_name};

/// Why a text is not the message it should be.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("not YAML: {0}")]
    Yaml(String),
    /// `path` is such as `static_resources.listeners[0].address`; empty for the whole.
    #[error("{}: {reason}", if .path.is_empty() { "the document" } else { .path })]
    Field { path: String, reason: String },
}

/// Reads a message from Envoy YAML (or JSON, which is YAML).
///
/// # Errors
/// When the text is no YAML, or not a message of that type; the error names the field.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, JsonError> {
    from_value(parse(text)?)
}

/// Reads a message from Envoy JSON; field names may be `snake_case` or `camelCase`.
///
/// # Errors
/// When it is not a message of that type; the error names the field.
pub fn from_value<M: Message + Name + Default>(value: Value) -> Result<M, JsonError> {
    let bytes = Encoder::default().message(&M::full_name(), &value, &Path::Whole)?;
    M::decode(&*bytes).map_err(|error| Path::Whole.error(error.to_string()))
}

/// Reads an `Any` from its JSON form, an object with `@type`.
///
/// # Errors
/// When `@type` is missing or unknown, or the rest is not a message of that type.
pub fn any_from_value(value: Value) -> Result<Any, JsonError> {
    let (url, bytes) = Encoder::default().packed(&value, &Path::Whole)?;
    Ok(Any {
        type_url: format!("{PREFIX}{}", message_name(url)),
        value: bytes,
    })
}

/// JSON is read as such, which takes a tenth of the time; what is no JSON is YAML, or wrong in the words of YAML.
fn parse(text: &str) -> Result<Value, JsonError> {
    if text.trim_start().starts_with('{')
        && let Ok(Unique(value)) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    serde_saphyr::from_str(text).map_err(|error| JsonError::Yaml(error.to_string()))
}

/// JSON that names no member of an object twice: two readers must not read two different documents.
#[derive(Debug)]
pub struct Unique(pub Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, _>()? {
            match out.entry(name) {
                Entry::Vacant(free) => free.insert(value),
                Entry::Occupied(taken) => {
                    let name = taken.key();
                    return Err(A::Error::custom(format!("{name:?} is given twice")));
                }
            };
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::{any_from_value, from_yaml};
    use crate::bootstrap::Bootstrap;
    use crate::hcm::HttpConnectionManager;
    use crate::{any, core};

    const BOOTSTRAP: &str = r#"
node: {id: one, metadata: {a: 1, b: [x]}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          statPrefix: in
          streamIdleTimeout: 1.5s
"#;

    #[test]
    fn a_bootstrap_is_read() {
        let bootstrap: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
        let listener = &bootstrap.static_resources.unwrap().listeners[0];
        let config = listener.filter_chains[0].filters[0].config_type.clone();
        let Some(crate::listener::filter::ConfigType::TypedConfig(config)) = config else {
            panic!("no typed config");
        };
        let hcm: HttpConnectionManager = any::unpack(&config).unwrap();
        assert_eq!(hcm.stat_prefix, "in");
        assert_eq!(hcm.stream_idle_timeout.unwrap().nanos, 500_000_000);
    }

    #[test]
    fn errors_name_the_field() {
        let check = |from: &str, to: &str, want: &str| {
            let text = BOOTSTRAP.replace(from, to);
            assert_ne!(text, BOOTSTRAP);
            let error = from_yaml::<Bootstrap>(&text).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        };
        let hcm = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
        check(
            "port_value: 8080",
            "port_value: x",
            "static_resources.listeners[0].address.socket_address.port_value: ",
        );
        check(
            "port_value: 8080",
            "port: 1",
            "static_resources.listeners[0].address.socket_address.port: envoy.config.core.v3.SocketAddress has no such field",
        );
        check("statPrefix", "statPrefixx", &format!("{hcm}.statPrefixx: "));
        check("1.5s", "soon", &format!("{hcm}.streamIdleTimeout: "));
        check(
            "HttpConnectionManager\n",
            "HttpConnectionManage\n",
            &format!("{hcm}: \"@type\": unknown type"),
        );
        check("{id: one,", "{id: {},", "node.id: ");
        assert!(
            from_yaml::<core::Node>("a: [")
                .unwrap_err()
                .to_string()
                .starts_with("not YAML: ")
        );
    }

    #[test]
    fn the_same_text_gives_the_same_bytes() {
        let text = r#"{"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": "x", "typed_config":
            {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"a": 1, "b": 2, "c": 3, "d": {"e": 4, "f": 5}}}}"#;
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let first = any_from_value(value.clone()).unwrap();
        for _ in 0..20 {
            assert_eq!(any_from_value(value.clone()).unwrap(), first);
        }
    }

    #[test]
    fn json_and_yaml_are_strict_alike() {
        let read = |text: &str| from_yaml::<core::Node>(text).map(|node| node.id);
        for text in [
            r#" {"id": "a", "cluster": "b"}"#,
            "{id: a, cluster: b}",
            "id: a",
        ] {
            assert_eq!(read(text).unwrap(), "a", "{text}");
        }
        for text in [
            r#"{"id": "a", "id": "a"}"#,
            "{id: a, id: a}",
            r#"{"id": "a"} x"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_any_needs_a_known_type() {
        let any = any_from_value(serde_json::json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.Node", "id": "x"
        }))
        .unwrap();
        assert_eq!(any::unpack::<core::Node>(&any).unwrap().id, "x");
        assert!(any_from_value(serde_json::json!({"id": "x"})).is_err());
    }
}
