//! Kubernetes protobuf request bodies as JSON: what `kubectl create` and other typed Go clients send.
//!
//! A body is `k8s\0` and a `runtime.Unknown` (k8s.io/apimachinery runtime/generated.proto) around the object. Only requests
//! are decoded; answers are JSON, which those clients accept. Field numbers come from `kubernetes.schema`.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};
use thiserror::Error;

const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages.
const MAX_DEPTH: usize = 64;

/// Immutable, parsed from the file at the first use.
static SCHEMA: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| parse_schema(include_str!("protobuf/kubernetes.schema")));

type Message = HashMap<u64, Field>;

#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    kind: Kind,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Plain,
    /// Presence means something: zero values are kept.
    Pointer,
    List,
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Bool,
    Int,
    Double,
    Bytes,
    Time,
    Quantity,
    IntOrString,
    /// JSON inside a message's only field.
    Json,
    Message(&'static str),
}

/// Why a body does not decode.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ProtobufError {
    #[error("it does not start with \"k8s\\0\"")]
    Magic,
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("a field has another wire type than its kind")]
    WireType,
    #[error("it is nested deeper than {MAX_DEPTH} messages")]
    Depth,
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("an embedded JSON value does not parse")]
    Json,
    #[error("no kind {kind} of {api_version} is taken in this form: send JSON")]
    Kind { api_version: String, kind: String },
}

/// Decodes a request body to the object it holds, `apiVersion` and `kind` included.
pub(super) fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind) = (String::new(), String::new());
    let (mut raw, mut media) = (&[][..], String::new());
    let mut unknown = Reader(body);
    while let Some((number, wire)) = unknown.field()? {
        match number {
            1 => {
                let mut meta = Reader(wire.bytes()?);
                while let Some((number, wire)) = meta.field()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            4 => media = wire.text()?,
            _ => {}
        }
    }
    let mut object = match media.as_str() {
        "application/json" => serde_json::from_slice(raw).map_err(|_| ProtobufError::Json)?,
        _ => {
            let unknown = || ProtobufError::Kind {
                api_version: api_version.clone(),
                kind: kind.clone(),
            };
            let name = message_name(&api_version, &kind).ok_or_else(unknown)?;
            message(&name, raw, 0)?.ok_or_else(unknown)?
        }
    };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), kind.into());
    }
    Ok(object)
}

fn message_name(api_version: &str, kind: &str) -> Option<String> {
    if kind == "DeleteOptions" {
        return Some("meta.DeleteOptions".to_owned());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let short = group.split('.').next().unwrap_or(group);
    (version == "v1").then(|| format!("{short}.{kind}"))
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, ProtobufError> {
    let Some(schema) = SCHEMA.get(name) else {
        return Ok(None);
    };
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let mut object = Map::new();
    let mut whole = None;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = schema.get(&number) else {
            continue;
        };
        if field.shape == Shape::Map {
            let (key, value) = entry(field.kind, wire.bytes()?, depth)?;
            let map = object
                .entry(field.name)
                .or_insert_with(|| Map::new().into());
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
            continue;
        }
        let value = value(field.kind, wire, depth)?;
        match (field.name, field.shape) {
            (".", _) => list(&mut whole, value),
            ("^", _) => {
                if let Value::Object(inner) = value {
                    object.extend(inner);
                }
            }
            (name, Shape::List) => {
                let mut slot = object.remove(name);
                list(&mut slot, value);
                object.insert(name.to_owned(), slot.unwrap_or_default());
            }
            (_, Shape::Plain) if is_zero(&value) => {}
            (name, _) => {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(Some(whole.unwrap_or(Value::Object(object))))
}

fn list(slot: &mut Option<Value>, item: Value) {
    match slot {
        Some(Value::Array(items)) => items.push(item),
        _ => *slot = Some(Value::Array(vec![item])),
    }
}

fn entry(kind: Kind, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => key = wire.text()?,
            2 => found = Some(value(kind, wire, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| Value::from(""))))
}

fn value(kind: Kind, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match kind {
        Kind::String => wire.text()?.into(),
        Kind::Bool => (wire.varint()? != 0).into(),
        Kind::Int => signed(wire.varint()?).into(),
        Kind::Double => wire.double()?.into(),
        Kind::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Kind::Time => time(wire.bytes()?)?,
        Kind::Quantity => only_text(wire.bytes()?)?.into(),
        Kind::IntOrString => int_or_string(wire.bytes()?)?,
        Kind::Json => json(wire.bytes()?)?,
        Kind::Message(name) => {
            message(name, wire.bytes()?, depth.saturating_add(1))?.unwrap_or_default()
        }
    })
}

/// proto2 writes negative numbers of all sizes as 64-bit two's complement.
fn signed(varint: u64) -> i64 {
    i64::from_ne_bytes(varint.to_ne_bytes())
}

fn time(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = signed(wire.varint()?),
            2 => nanos = signed(wire.varint()?),
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).unwrap_or(0);
    // Go writes a missing time as an empty message, or as the year 1.
    let zero = seconds == 0 && nanos == 0 || seconds == -62_135_596_800;
    match Timestamp::new(seconds, nanos) {
        Ok(time) if !zero => Ok(time.to_string().into()),
        _ => Ok(Value::Null),
    }
}

fn only_text(bytes: &[u8]) -> Result<String, ProtobufError> {
    let mut text = String::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            text = wire.text()?;
        }
    }
    Ok(text)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.field()? {
        match field {
            1 => is_text = wire.varint()? == 1,
            2 => number = signed(wire.varint()?),
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn json(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut found = Value::Null;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            found = serde_json::from_slice(wire.bytes()?).map_err(|_| ProtobufError::Json)?;
        }
    }
    Ok(found)
}

/// What Go's JSON leaves out of a struct.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Reads fields off a message.
struct Reader<'a>(&'a [u8]);

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Reader<'a> {
    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(bytes.try_into().map_err(|_| ProtobufError::Truncated)?)
            }
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(ProtobufError::WireType),
        };
        Ok(Some((key >> 3, wire)))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::WireType),
        }
    }

    fn text(self) -> Result<String, ProtobufError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| ProtobufError::Utf8)
    }

    fn varint(self) -> Result<u64, ProtobufError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(ProtobufError::WireType),
        }
    }

    fn double(self) -> Result<f64, ProtobufError> {
        match self {
            Self::Fixed64(bytes) => Ok(f64::from_le_bytes(bytes)),
            _ => Err(ProtobufError::WireType),
        }
    }
}

fn parse_schema(text: &'static str) -> HashMap<&'static str, Message> {
    let mut messages = HashMap::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut current: Option<(&str, Message)> = None;
    loop {
        let line = lines.next();
        match line.map(str::trim) {
            None | Some("") => {
                if let Some((name, message)) = current.take() {
                    messages.insert(name, message);
                }
                if line.is_none() {
                    return messages;
                }
            }
            Some(line) => match (&mut current, parse_field(line)) {
                (Some((_, message)), Some((number, field))) => {
                    message.insert(number, field);
                }
                _ => current = Some((line, Message::new())),
            },
        }
    }
}

fn parse_field(line: &'static str) -> Option<(u64, Field)> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let (name, kind) = (words.next()?, words.next()?);
    let (shape, kind) = if let Some(kind) = kind.strip_prefix("[]") {
        (Shape::List, kind)
    } else if let Some(kind) = kind.strip_prefix("{}") {
        (Shape::Map, kind)
    } else if let Some(kind) = kind.strip_prefix('*') {
        (Shape::Pointer, kind)
    } else {
        (Shape::Plain, kind)
    };
    let kind = match kind {
        "string" => Kind::String,
        "bool" => Kind::Bool,
        "int" => Kind::Int,
        "double" => Kind::Double,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time,
        "quantity" => Kind::Quantity,
        "intOrString" => Kind::IntOrString,
        "json" => Kind::Json,
        message => Kind::Message(message),
    };
    Some((number, Field { name, kind, shape }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Kind, ProtobufError, SCHEMA, decode};

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[track_caller]
    fn check(api_version: &str, kind: &str, raw: &[u8], mut want: Value) {
        want["apiVersion"] = api_version.into();
        want["kind"] = kind.into();
        assert_eq!(decode(&envelope(api_version, kind, raw)).unwrap(), want);
    }

    #[test]
    fn objects_decode_as_go_would_write_json() {
        let metadata = [field(1, b"a"), field(3, b""), field(8, &[])].concat();
        let data = [field(1, b"k"), field(2, b"v")].concat();
        let config_map = [field(1, &metadata), field(2, &data)].concat();
        check(
            "v1",
            "ConfigMap",
            &config_map,
            json!({"metadata": {"name": "a"}, "data": {"k": "v"}}),
        );
        // replicas is a pointer, so 0 stays; readyReplicas in the status is not.
        let spec = field(2, &[1 << 3, 0]);
        let status = field(3, &[7 << 3, 0]);
        check(
            "apps/v1",
            "Deployment",
            &[spec, status].concat(),
            json!({"spec": {"replicas": 0}}),
        );
        // A volume's source is inlined; an empty pointer message is present.
        let volume = [field(1, b"v"), field(2, &field(2, &[]))].concat();
        let pod = field(2, &field(1, &volume));
        check(
            "v1",
            "Pod",
            &pod,
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        );
        // A port named and a port numbered.
        let port = |target: &[u8]| field(2, &field(1, &field(4, target)));
        check(
            "v1",
            "Service",
            &port(&[8, 0, 16, 80]),
            json!({"spec": {"ports": [{"targetPort": 80}]}}),
        );
        let named = [vec![8, 1], field(3, b"http")].concat();
        check(
            "v1",
            "Service",
            &port(&named),
            json!({"spec": {"ports": [{"targetPort": "http"}]}}),
        );
    }

    #[test]
    fn every_message_the_schema_names_is_there() {
        for (name, message) in SCHEMA.iter() {
            for field in message.values() {
                if let Kind::Message(inner) = field.kind {
                    assert!(
                        SCHEMA.contains_key(inner),
                        "{name}.{} is {inner}",
                        field.name
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_known_object_is_refused() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
        assert!(matches!(
            decode(&envelope("x.io/v1", "Widget", &[])),
            Err(ProtobufError::Kind { .. })
        ));
        assert_eq!(
            decode(&envelope("v1", "Pod", &[10, 200])),
            Err(ProtobufError::Truncated)
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&raw);
            let _ = decode(&envelope("v1", "Pod", &raw[..raw.len().min(100)]));
        }
    }
}
