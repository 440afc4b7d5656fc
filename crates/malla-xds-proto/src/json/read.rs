//! JSON and YAML to messages.

use prost::{Message, Name};
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage,
    Value as Field,
};
use serde_json::{Map, Value};

use super::pool;
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

impl JsonError {
    fn new(path: String, reason: impl Into<String>) -> Self {
        Self::Field {
            path,
            reason: reason.into(),
        }
    }
}

/// Reads a message from Envoy YAML (or JSON, which is YAML).
///
/// # Errors
/// When the text is no YAML, or not a message of that type; the error names the field.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, JsonError> {
    let value: Value =
        serde_saphyr::from_str(text).map_err(|error| JsonError::Yaml(error.to_string()))?;
    from_value(value)
}

/// Reads a message from Envoy JSON; field names may be `snake_case` or `camelCase`.
///
/// # Errors
/// When it is not a message of that type; the error names the field.
pub fn from_value<M: Message + Name + Default>(value: Value) -> Result<M, JsonError> {
    let descriptor = message(&M::full_name()).ok_or_else(|| {
        JsonError::new(
            String::new(),
            format!("no descriptor of {}", M::full_name()),
        )
    })?;
    let dynamic = dynamic(&descriptor, value)?;
    M::decode(&*dynamic.encode_to_vec()).map_err(|e| JsonError::new(String::new(), e.to_string()))
}

/// Reads an `Any` from its JSON form, an object with `@type`.
///
/// # Errors
/// When `@type` is missing or unknown, or the rest is not a message of that type.
pub fn any_from_value(value: Value) -> Result<Any, JsonError> {
    let (descriptor, rest) = split_any(&value, "")?;
    let dynamic = dynamic(&descriptor, rest)?;
    let mut bytes = dynamic.encode_to_vec();
    crate::canonical::sort_maps(descriptor.full_name(), &mut bytes);
    Ok(Any {
        type_url: format!("{PREFIX}{}", descriptor.full_name()),
        value: bytes,
    })
}

fn message(name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(name)
}

fn dynamic(descriptor: &MessageDescriptor, value: Value) -> Result<DynamicMessage, JsonError> {
    // The library's errors have no path, so a refused document is read again to find the place.
    match parse(descriptor, value.clone()) {
        Ok(mut dynamic) => {
            order_packed(&mut dynamic);
            Ok(dynamic)
        }
        Err(reason) => {
            Err(locate(descriptor, &value, "").unwrap_or(JsonError::new(String::new(), reason)))
        }
    }
}

/// Puts the maps of packed messages in order: the library packs them in the order of a hash table,
/// and the same text must give the same bytes.
fn order_packed(message: &mut DynamicMessage) {
    if message.descriptor().full_name() != "google.protobuf.Any" {
        return message
            .fields_mut()
            .for_each(|(_, value)| order_packed_in(value));
    }
    let field = |number| {
        let field = message.get_field_by_number(number)?;
        Some(field.into_owned())
    };
    let (Some(Field::String(url)), Some(Field::Bytes(bytes))) = (field(1), field(2)) else {
        return;
    };
    let inner = self::message(message_name(&url));
    let Some(Ok(mut inner)) = inner.map(|inner| DynamicMessage::decode(inner, bytes)) else {
        return;
    };
    order_packed(&mut inner);
    let mut bytes = inner.encode_to_vec();
    crate::canonical::sort_maps(inner.descriptor().full_name(), &mut bytes);
    message.set_field_by_number(2, Field::Bytes(bytes.into()));
}

fn order_packed_in(value: &mut Field) {
    match value {
        Field::Message(inner) => order_packed(inner),
        Field::List(items) => items.iter_mut().for_each(order_packed_in),
        Field::Map(entries) => entries.values_mut().for_each(order_packed_in),
        _ => {}
    }
}

fn parse(descriptor: &MessageDescriptor, value: Value) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
        .map_err(|error| error.to_string())
}

/// Finds the innermost refused field; `None` when all is well below `path`.
fn locate(descriptor: &MessageDescriptor, value: &Value, path: &str) -> Option<JsonError> {
    let reason = parse(descriptor, value.clone()).err()?;
    if descriptor.full_name() == "google.protobuf.Any" {
        return match split_any(value, path) {
            Ok((inner, rest)) => locate(&inner, &rest, path),
            Err(error) => Some(error),
        };
    }
    let Some(fields) = value.as_object().filter(|_| !is_well_known(descriptor)) else {
        return Some(JsonError::new(path.to_owned(), reason));
    };
    for (name, value) in fields {
        let path = join(path, name);
        let Some(field) = descriptor
            .get_field_by_json_name(name)
            .or_else(|| descriptor.get_field_by_name(name))
        else {
            let reason = format!("{} has no such field", descriptor.full_name());
            return Some(JsonError::new(path, reason));
        };
        if let Some(error) = locate_field(descriptor, &field, name, value, path) {
            return Some(error);
        }
    }
    Some(JsonError::new(path.to_owned(), reason))
}

fn locate_field(
    descriptor: &MessageDescriptor,
    field: &FieldDescriptor,
    name: &str,
    value: &Value,
    path: String,
) -> Option<JsonError> {
    let inner = match field.kind() {
        Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(inner) => Some(inner),
            _ => None,
        },
        Kind::Message(inner) => Some(inner),
        _ => None,
    };
    let deeper = match (&inner, value) {
        (Some(inner), Value::Array(items)) if field.is_list() => items
            .iter()
            .enumerate()
            .find_map(|(at, item)| locate(inner, item, &format!("{path}[{at}]"))),
        (Some(inner), Value::Object(entries)) if field.is_map() => entries
            .iter()
            .find_map(|(key, item)| locate(inner, item, &join(&path, key))),
        (Some(inner), item) if !field.is_list() && !field.is_map() && !item.is_null() => {
            locate(inner, item, &path)
        }
        _ => None,
    };
    deeper.or_else(|| {
        let alone = Map::from_iter([(name.to_owned(), value.clone())]);
        let reason = parse(descriptor, Value::Object(alone)).err()?;
        Some(JsonError::new(path, reason))
    })
}

/// An `Any` in JSON: the message's type and the message.
fn split_any(value: &Value, path: &str) -> Result<(MessageDescriptor, Value), JsonError> {
    let fail = |reason: String| JsonError::new(path.to_owned(), reason);
    let mut fields = value
        .as_object()
        .cloned()
        .ok_or_else(|| fail("expected an object with \"@type\"".into()))?;
    let url = match fields.remove("@type") {
        Some(Value::String(url)) => url,
        _ => return Err(fail("\"@type\" is missing".into())),
    };
    let inner = message(message_name(&url))
        .ok_or_else(|| fail(format!("\"@type\": unknown type {url:?}")))?;
    let rest = if is_well_known(&inner) {
        fields.remove("value").unwrap_or(Value::Null)
    } else {
        Value::Object(fields)
    };
    Ok((inner, rest))
}

/// Messages with a JSON form of their own.
pub(super) fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    descriptor.parent_file().package_name() == "google.protobuf"
        && descriptor.full_name() != "google.protobuf.Any"
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
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
    fn an_any_needs_a_known_type() {
        let any = any_from_value(serde_json::json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.Node", "id": "x"
        }))
        .unwrap();
        assert_eq!(any::unpack::<core::Node>(&any).unwrap().id, "x");
        assert!(any_from_value(serde_json::json!({"id": "x"})).is_err());
    }
}
