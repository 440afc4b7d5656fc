//! Messages to JSON, as Envoy's `/config_dump` prints them: `snake_case` names, fields that are set.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::{Message, Name};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value as Field,
};
use serde_json::{Map, Value, json};

use super::encode::is_well_known;
use super::pool;
use crate::Any;
use crate::type_url::message_name;

/// An `Any` inside an `Any` and so on, deeper than this, is shown as bytes.
const MAX_DEPTH: usize = 64;

/// Prints a message.
#[must_use]
pub fn print<M: Message + Name>(message: &M) -> Value {
    print_encoded::<M>(&message.encode_to_vec())
}

/// As [`print`], for a message that is encoded.
#[must_use]
pub fn print_encoded<M: Name>(bytes: &[u8]) -> Value {
    expand(&M::full_name(), bytes, MAX_DEPTH).unwrap_or_else(|| raw(bytes))
}

/// Prints a packed message as an object with `@type`; one of unknown type, or damaged, as
/// `{"@type": …, "value": base64}`.
#[must_use]
pub fn print_any(any: &Any) -> Value {
    print_bytes(&any.type_url, &any.value)
}

/// As [`print_any`], for bytes that are not in an `Any`.
#[must_use]
pub fn print_bytes(type_url: &str, bytes: &[u8]) -> Value {
    any(type_url, bytes, MAX_DEPTH)
}

fn any(type_url: &str, bytes: &[u8], depth: usize) -> Value {
    let mut fields = Map::from_iter([("@type".to_owned(), Value::from(type_url))]);
    match expand(message_name(type_url), bytes, depth) {
        Some(Value::Object(inner)) if !is_well_known(message_name(type_url)) => {
            fields.extend(inner)
        }
        Some(value) => {
            fields.insert("value".into(), value);
        }
        None => {
            fields.insert("value".into(), raw(bytes));
        }
    }
    Value::Object(fields)
}

fn raw(bytes: &[u8]) -> Value {
    Value::from(STANDARD.encode(bytes))
}

fn expand(name: &str, bytes: &[u8], depth: usize) -> Option<Value> {
    let descriptor = pool().get_message_by_name(name).filter(|_| depth > 0)?;
    let message = DynamicMessage::decode(descriptor, bytes).ok()?;
    Some(object(&message, depth))
}

fn object(message: &DynamicMessage, depth: usize) -> Value {
    let descriptor = message.descriptor();
    if descriptor.full_name() == "google.protobuf.Any" {
        return packed(&descriptor, message, depth);
    }
    if is_well_known(descriptor.full_name()) {
        return well_known(message);
    }
    let fields = message
        .fields()
        .map(|(field, value)| (field.name().to_owned(), value_of(&field, value, depth)));
    Value::Object(fields.collect())
}

fn packed(descriptor: &MessageDescriptor, message: &DynamicMessage, depth: usize) -> Value {
    let get = |number| {
        descriptor
            .get_field(number)
            .map(|field| message.get_field(&field).into_owned())
    };
    match (get(1), get(2)) {
        (Some(Field::String(url)), Some(Field::Bytes(bytes))) => any(&url, &bytes, depth - 1),
        _ => Value::Null,
    }
}

fn well_known(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        // A duration out of range, for example, has no JSON form.
        .unwrap_or_else(|_| json!({ "invalid": raw(&message.encode_to_vec()) }))
}

fn value_of(field: &FieldDescriptor, value: &Field, depth: usize) -> Value {
    match value {
        Field::Message(inner) => object(inner, depth),
        Field::List(items) => items.iter().map(|v| value_of(field, v, depth)).collect(),
        Field::Map(entries) => {
            let Kind::Message(entry) = field.kind() else {
                return Value::Null;
            };
            let field = entry.map_entry_value_field();
            let mut sorted: Vec<(String, Value)> = entries
                .iter()
                .map(|(key, value)| (key_of(key), value_of(&field, value, depth)))
                .collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(sorted.into_iter().collect())
        }
        scalar => scalar_of(field, scalar),
    }
}

fn key_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}

fn scalar_of(field: &FieldDescriptor, value: &Field) -> Value {
    match value {
        Field::Bool(v) => Value::from(*v),
        Field::I32(v) => Value::from(*v),
        Field::U32(v) => Value::from(*v),
        // 64-bit integers are texts in protobuf's JSON.
        Field::I64(v) => Value::from(v.to_string()),
        Field::U64(v) => Value::from(v.to_string()),
        Field::F32(v) => float(f64::from(*v)),
        Field::F64(v) => float(*v),
        Field::String(v) => Value::from(v.clone()),
        Field::Bytes(v) => raw(v),
        Field::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => kind
                .get_value(*number)
                .map_or(Value::from(*number), |v| Value::from(v.name())),
            _ => Value::from(*number),
        },
        Field::Message(_) | Field::List(_) | Field::Map(_) => Value::Null,
    }
}

fn float(value: f64) -> Value {
    if value.is_nan() {
        Value::from("NaN")
    } else if value.is_infinite() {
        Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        Value::from(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{print, print_any, print_bytes};
    use crate::core::{Node, TypedExtensionConfig};
    use crate::json::{from_value, pool};
    use crate::pb::google::protobuf::Duration;
    use crate::{Any, any, wkt};

    #[test]
    fn known_types_are_expanded_and_unknown_ones_shown_raw() {
        let node = Node {
            id: "a".into(),
            metadata: Some(wkt::structure([("k", wkt::string("v"))])),
            ..Node::default()
        };
        let config = TypedExtensionConfig {
            name: "x".into(),
            typed_config: Some(any::pack(&node)),
        };
        let want = json!({"name": "x", "typed_config": {
            "@type": "type.googleapis.com/envoy.config.core.v3.Node", "id": "a", "metadata": {"k": "v"}}});
        assert_eq!(print(&config), want);
        assert_eq!(from_value::<TypedExtensionConfig>(want).unwrap(), config);

        let unknown = Any {
            type_url: "type.googleapis.com/no.such.Type".into(),
            value: vec![1, 2, 3],
        };
        assert_eq!(
            print_any(&unknown),
            json!({"@type": unknown.type_url, "value": "AQID"})
        );
    }

    #[test]
    fn damaged_and_odd_values_are_still_printed() {
        let url = "type.googleapis.com/envoy.config.core.v3.Node";
        assert_eq!(
            print_bytes(url, b"\xff"),
            json!({"@type": url, "value": "/w=="})
        );
        let odd = Duration {
            seconds: i64::MAX,
            nanos: -5,
        };
        assert!(print(&odd).to_string().contains("invalid"));
        let fine = wkt::duration(std::time::Duration::from_millis(1500));
        let packed = any::pack(&fine);
        assert_eq!(
            print_any(&packed),
            json!({"@type": packed.type_url, "value": "1.500s"})
        );
    }

    #[test]
    fn an_any_within_an_any_ends_somewhere() {
        let mut any = Any::default();
        for _ in 0..200 {
            any = any::pack(&any);
        }
        assert!(print_any(&any).to_string().len() < 1_000_000);
    }

    #[test]
    fn hand_written_messages_have_descriptors() {
        for name in [
            "udpa.type.v1.TypedStruct",
            "xds.type.v3.TypedStruct",
            "istio.networking.nds.v1.NameTable",
        ] {
            assert!(pool().get_message_by_name(name).is_some(), "{name}");
        }
    }
}
