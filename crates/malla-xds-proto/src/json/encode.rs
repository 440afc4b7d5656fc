//! JSON values to protobuf bytes, by the descriptors (<https://protobuf.dev/programming-guides/json/>).
//!
//! Fields are written in the order of their numbers and map entries in that of their keys, so equal documents give equal bytes.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use serde_json::{Map, Value};

use super::read::JsonError;
use super::schema::{Field, Kind, MessageType, Schema};
use crate::type_url::message_name;

/// Largest number of seconds of a duration, either way (10,000 years).
const MOST_SECONDS: u64 = 315_576_000_000;
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

type Encoded = Result<Vec<u8>, JsonError>;

/// Where in a document something is; only errors print it.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Whole,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

/// A value on the wire, without its field's number.
enum Scalar {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(Vec<u8>),
}

/// Writes documents of one or more types.
#[derive(Default)]
pub(super) struct Encoder {
    schema: Schema,
}

impl Path<'_> {
    pub(super) fn error(&self, reason: impl Into<String>) -> JsonError {
        JsonError::Field {
            path: self.to_string(),
            reason: reason.into(),
        }
    }

    fn expected(&self, what: &str, found: &Value) -> JsonError {
        let found = match found {
            Value::Object(_) => "an object".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            scalar => {
                let text = scalar.to_string();
                let shown: String = text.chars().take(80).collect();
                if shown.len() < text.len() {
                    shown + "..."
                } else {
                    shown
                }
            }
        };
        self.error(format!("expected {what}, not {found}"))
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Field(Path::Whole, name) => write!(out, "{name}"),
            Self::Field(above, name) => write!(out, "{above}.{name}"),
            Self::Item(above, at) => write!(out, "{above}[{at}]"),
        }
    }
}

impl Scalar {
    fn wire_type(&self) -> WireType {
        match self {
            Self::Varint(_) => WireType::Varint,
            Self::Fixed32(_) => WireType::ThirtyTwoBit,
            Self::Fixed64(_) => WireType::SixtyFourBit,
            Self::Bytes(_) => WireType::LengthDelimited,
        }
    }

    fn is_default(&self) -> bool {
        match self {
            Self::Varint(value) | Self::Fixed64(value) => *value == 0,
            Self::Fixed32(value) => *value == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(value) => encode_varint(*value, out),
            Self::Fixed32(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Fixed64(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Bytes(bytes) => put_bytes(bytes, out),
        }
    }

    fn put_field(&self, number: u32, out: &mut Vec<u8>) {
        encode_key(number, self.wire_type(), out);
        self.put(out);
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

impl Encoder {
    /// The bytes of a message of this type.
    pub(super) fn message(&self, name: &str, value: &Value, at: &Path<'_>) -> Encoded {
        if let Some(short) = name.strip_prefix("google.protobuf.")
            && let Some(encoded) = self.well_known(short, value, at)
        {
            return encoded;
        }
        let fields = value.as_object();
        let fields = fields.ok_or_else(|| at.expected("an object", value))?;
        self.plain(name, fields, false, at)
    }

    /// The name and bytes of what an object with `@type` is.
    pub(super) fn packed<'a>(
        &self,
        value: &'a Value,
        at: &Path<'_>,
    ) -> Result<(&'a str, Vec<u8>), JsonError> {
        let fields = value.as_object();
        let fields = fields.ok_or_else(|| at.expected("an object with \"@type\"", value))?;
        let Some(url) = fields.get("@type").and_then(Value::as_str) else {
            return Err(at.error("\"@type\" is missing"));
        };
        let name = message_name(url);
        if self.schema.message(name).is_none() {
            return Err(at.error(format!("\"@type\": unknown type {url:?}")));
        }
        if !is_well_known(name) {
            return Ok((url, self.plain(name, fields, true, at)?));
        }
        if let Some((other, _)) = fields
            .iter()
            .find(|(key, _)| !matches!(key.as_str(), "@type" | "value"))
        {
            return Err(Path::Field(at, other).error(format!("{name} has no such field")));
        }
        let inner = fields.get("value");
        let inner = inner.ok_or_else(|| at.error("\"value\" is missing"))?;
        let encoded = self.message(name, inner, &Path::Field(at, "value"))?;
        Ok((url, encoded))
    }

    fn plain(&self, name: &str, fields: &Map<String, Value>, any: bool, at: &Path<'_>) -> Encoded {
        let Some(kind) = self.schema.message(name) else {
            return Err(at.error(format!("no descriptor of {name}")));
        };
        let mut given = self.given(name, &kind, fields, any, at)?;
        given.sort_by_key(|(field, ..)| field.number);
        let mut out = Vec::new();
        for (field, name, value) in given {
            self.field(field, value, &Path::Field(at, name), &mut out)?;
        }
        Ok(out)
    }

    /// The fields that a document sets; `null` leaves one unset.
    fn given<'a>(
        &self,
        of: &str,
        kind: &'a MessageType,
        fields: &'a Map<String, Value>,
        any: bool,
        at: &Path<'_>,
    ) -> Result<Vec<(&'a Field, &'a str, &'a Value)>, JsonError> {
        let mut given: Vec<(&Field, &str, &Value)> = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            if any && name == "@type" {
                continue;
            }
            let here = Path::Field(at, name);
            let Some(field) = kind.field(name) else {
                return Err(here.error(format!("{of} has no such field")));
            };
            if value.is_null() && !takes_null(field) {
                continue;
            }
            if let Some((_, other, _)) = given.iter().find(|(one, ..)| {
                one.number == field.number || field.oneof.is_some() && one.oneof == field.oneof
            }) {
                return Err(here.error(format!("it cannot be given beside `{other}`")));
            }
            given.push((field, name, value));
        }
        Ok(given)
    }

    fn field(
        &self,
        field: &Field,
        value: &Value,
        at: &Path<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), JsonError> {
        if field.map {
            return self.map(field, value, at, out);
        }
        if !field.repeated {
            let scalar = self.scalar(&field.kind, value, at)?;
            let explicit = field.explicit || matches!(field.kind, Kind::Message(_));
            if explicit || !scalar.is_default() {
                scalar.put_field(field.number, out);
            }
            return Ok(());
        }
        let Value::Array(items) = value else {
            return Err(at.expected("a list", value));
        };
        let mut packed = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let scalar = self.scalar(&field.kind, item, &Path::Item(at, index))?;
            match scalar {
                Scalar::Bytes(_) => scalar.put_field(field.number, out),
                _ => scalar.put(&mut packed),
            }
        }
        if !packed.is_empty() {
            Scalar::Bytes(packed).put_field(field.number, out);
        }
        Ok(())
    }

    fn map(
        &self,
        field: &Field,
        value: &Value,
        at: &Path<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), JsonError> {
        let Value::Object(entries) = value else {
            return Err(at.expected("an object", value));
        };
        let Kind::Message(entry) = &field.kind else {
            return Ok(());
        };
        let kind = self.schema.message(entry);
        let of = |number| kind.as_ref()?.by_number(number);
        let (Some(key_field), Some(value_field)) = (of(1), of(2)) else {
            return Err(at.error(format!("no descriptor of {entry}")));
        };
        let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        for (key, value) in sorted {
            let here = Path::Field(at, key);
            let mut encoded = Vec::new();
            let key = match (&key_field.kind, key.as_str()) {
                (Kind::Scalar(Type::Bool), "true" | "false") => Value::Bool(key == "true"),
                _ => Value::String(key.clone()),
            };
            self.field(key_field, &key, &here, &mut encoded)?;
            self.field(value_field, value, &here, &mut encoded)?;
            Scalar::Bytes(encoded).put_field(field.number, out);
        }
        Ok(())
    }

    fn scalar(&self, kind: &Kind, value: &Value, at: &Path<'_>) -> Result<Scalar, JsonError> {
        match kind {
            Kind::Message(name) => self.message(name, value, at).map(Scalar::Bytes),
            Kind::Enum(name) => self.enumeration(name, value, at),
            Kind::Scalar(kind) => scalar(*kind, value, at),
        }
    }

    fn enumeration(&self, name: &str, value: &Value, at: &Path<'_>) -> Result<Scalar, JsonError> {
        if name == "google.protobuf.NullValue" {
            return match value {
                Value::Null => Ok(Scalar::Varint(0)),
                Value::String(text) if text == "NULL_VALUE" => Ok(Scalar::Varint(0)),
                _ => Err(at.expected("null", value)),
            };
        }
        let number = match value {
            Value::String(text) => {
                let found = self.schema.enumeration(name);
                found.and_then(|found| found.number(text)).map(i64::from)
            }
            Value::Number(number) => {
                let number = number.as_i64();
                number.filter(|number| i32::try_from(*number).is_ok())
            }
            _ => None,
        };
        match number {
            Some(number) => Ok(Scalar::Varint(number.cast_unsigned())),
            None => Err(at.expected(&format!("a value of {name}"), value)),
        }
    }

    /// Messages with a JSON form of their own; `None` for others.
    fn well_known(&self, short: &str, value: &Value, at: &Path<'_>) -> Option<Encoded> {
        let text = || value.as_str();
        Some(match short {
            "Any" => self.packed(value, at).map(|(url, value)| {
                let url = url.to_owned();
                prost_types::Any {
                    type_url: url,
                    value,
                }
                .encode_to_vec()
            }),
            "Duration" => text()
                .and_then(duration)
                .ok_or_else(|| at.expected("a duration such as \"1.5s\"", value)),
            "Timestamp" => text()
                .and_then(timestamp)
                .ok_or_else(|| at.expected("a time such as \"2026-01-31T12:00:00Z\"", value)),
            "Struct" => match value {
                Value::Object(fields) => Ok(structure(fields)),
                _ => Err(at.expected("an object", value)),
            },
            "ListValue" => match value {
                Value::Array(items) => Ok(list(items)),
                _ => Err(at.expected("a list", value)),
            },
            "Value" => Ok(any_value(value)),
            "Empty" => match value.as_object() {
                Some(fields) if fields.is_empty() => Ok(Vec::new()),
                _ => Err(at.expected("{}", value)),
            },
            _ => {
                let kind = wrapped(short)?;
                scalar(kind, value, at).map(|scalar| {
                    let mut out = Vec::new();
                    if !scalar.is_default() {
                        scalar.put_field(1, &mut out);
                    }
                    out
                })
            }
        })
    }
}

/// Messages that stand in `value` beside their `@type`.
pub(super) fn is_well_known(name: &str) -> bool {
    let Some(short) = name.strip_prefix("google.protobuf.") else {
        return false;
    };
    let own = [
        "Any",
        "Duration",
        "Timestamp",
        "Struct",
        "ListValue",
        "Value",
        "Empty",
    ];
    own.contains(&short) || wrapped(short).is_some()
}

fn takes_null(field: &Field) -> bool {
    let null = match &field.kind {
        Kind::Message(name) => name == "google.protobuf.Value",
        Kind::Enum(name) => name == "google.protobuf.NullValue",
        Kind::Scalar(_) => false,
    };
    null && !field.repeated
}

/// What a wrapper message wraps.
fn wrapped(short: &str) -> Option<Type> {
    Some(match short {
        "DoubleValue" => Type::Double,
        "FloatValue" => Type::Float,
        "Int64Value" => Type::Int64,
        "UInt64Value" => Type::Uint64,
        "Int32Value" => Type::Int32,
        "UInt32Value" => Type::Uint32,
        "BoolValue" => Type::Bool,
        "StringValue" => Type::String,
        "BytesValue" => Type::Bytes,
        _ => return None,
    })
}

fn scalar(kind: Type, value: &Value, at: &Path<'_>) -> Result<Scalar, JsonError> {
    let signed = |least: i64, most: i64, what: &str| {
        let number = whole(value).and_then(|number| i64::try_from(number).ok());
        let number = number.filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| at.expected(what, value))
    };
    let unsigned = |most: u64, what: &str| {
        let number = whole(value).and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| *number <= most);
        number.ok_or_else(|| at.expected(what, value))
    };
    let (min, max) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let int32 = || signed(min, max, "a whole number of 32 bits");
    let int64 = || signed(i64::MIN, i64::MAX, "a whole number of 64 bits");
    let uint32 = || {
        unsigned(
            u32::MAX.into(),
            "a whole number of 32 bits that is not negative",
        )
    };
    let uint64 = || unsigned(u64::MAX, "a whole number of 64 bits that is not negative");
    let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
    Ok(match kind {
        Type::Int32 => Scalar::Varint(int32()?.cast_unsigned()),
        Type::Int64 => Scalar::Varint(int64()?.cast_unsigned()),
        Type::Sint32 => Scalar::Varint(zigzag(int32()?)),
        Type::Sint64 => Scalar::Varint(zigzag(int64()?)),
        Type::Uint32 => Scalar::Varint(uint32()?),
        Type::Uint64 => Scalar::Varint(uint64()?),
        Type::Fixed32 => Scalar::Fixed32(low(uint32()?)),
        Type::Fixed64 => Scalar::Fixed64(uint64()?),
        Type::Sfixed32 => Scalar::Fixed32(low(int32()?.cast_unsigned())),
        Type::Sfixed64 => Scalar::Fixed64(int64()?.cast_unsigned()),
        Type::Double => Scalar::Fixed64(real(value, at)?.to_bits()),
        Type::Float => Scalar::Fixed32(single(value, at)?.to_bits()),
        Type::Bool => match value {
            Value::Bool(flag) => Scalar::Varint(u64::from(*flag)),
            _ => return Err(at.expected("true or false", value)),
        },
        Type::String => match value {
            Value::String(text) => Scalar::Bytes(text.clone().into_bytes()),
            _ => return Err(at.expected("a text", value)),
        },
        Type::Bytes => match value.as_str().and_then(bytes) {
            Some(bytes) => Scalar::Bytes(bytes),
            None => return Err(at.expected("bytes in base64", value)),
        },
        Type::Message | Type::Group | Type::Enum => {
            return Err(at.error("its type has no scalar form"));
        }
    })
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// A whole number, which may be written as a text or with a fraction of zero.
fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => {
            let exact = number.as_i64().map(i128::from);
            let exact = exact.or_else(|| number.as_u64().map(i128::from));
            exact.or_else(|| {
                let real = number.as_f64().filter(|real| real.fract() == 0.0)?;
                // Far beyond any of our types, and well within this one.
                (real.abs() < 1e30).then_some(real as i128)
            })
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn real(value: &Value, at: &Path<'_>) -> Result<f64, JsonError> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    };
    number.ok_or_else(|| at.expected("a number", value))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "rounding is what a smaller type asks for; the range is checked"
)]
fn single(value: &Value, at: &Path<'_>) -> Result<f32, JsonError> {
    let number = real(value, at)?;
    if number.is_finite() && number.abs() > f64::from(f32::MAX) {
        return Err(at.expected("a number of 32 bits", value));
    }
    Ok(number as f32)
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) {
        &URL_SAFE
    } else {
        &STANDARD
    };
    engine.decode(text).ok()
}

fn duration(text: &str) -> Option<Vec<u8>> {
    let found: prost_types::Duration = text.parse().ok()?;
    (found.seconds.unsigned_abs() <= MOST_SECONDS).then(|| found.encode_to_vec())
}

/// RFC 3339 alone, of what the library reads.
fn timestamp(text: &str) -> Option<Vec<u8>> {
    let strict = text.get(10..11) == Some("T")
        && (text.ends_with('Z') || text.get(19..).is_some_and(|rest| rest.contains(['+', '-'])));
    let found: prost_types::Timestamp = text.parse().ok()?;
    strict.then(|| found.encode_to_vec())
}

fn structure(fields: &Map<String, Value>) -> Vec<u8> {
    let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let mut out = Vec::new();
    for (key, value) in sorted {
        let mut entry = Vec::new();
        if !key.is_empty() {
            Scalar::Bytes(key.clone().into_bytes()).put_field(1, &mut entry);
        }
        Scalar::Bytes(any_value(value)).put_field(2, &mut entry);
        Scalar::Bytes(entry).put_field(1, &mut out);
    }
    out
}

fn list(items: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        Scalar::Bytes(any_value(item)).put_field(1, &mut out);
    }
    out
}

/// `google.protobuf.Value`, whose choice is always written.
fn any_value(value: &Value) -> Vec<u8> {
    let (number, scalar) = match value {
        Value::Null => (1, Scalar::Varint(0)),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            (2, Scalar::Fixed64(number.to_bits()))
        }
        Value::String(text) => (3, Scalar::Bytes(text.clone().into_bytes())),
        Value::Bool(flag) => (4, Scalar::Varint(u64::from(*flag))),
        Value::Object(fields) => (5, Scalar::Bytes(structure(fields))),
        Value::Array(items) => (6, Scalar::Bytes(list(items))),
    };
    let mut out = Vec::new();
    scalar.put_field(number, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::{DeserializeOptions, DynamicMessage};
    use serde_json::{Value, json};

    use super::{Encoder, Path};
    use crate::json::pool;

    /// The library that reads by reflection is the oracle: what it takes, is taken as the same, and nothing else.
    fn check(name: &str, value: &Value) {
        let descriptor = pool().get_message_by_name(name).expect(name);
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        let theirs =
            DynamicMessage::deserialize_with_options(descriptor.clone(), value.clone(), &options);
        let ours = Encoder::default().message(name, value, &Path::Whole);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                // As texts: what is no number does not equal itself.
                let shown = |bytes: &[u8]| {
                    let message = DynamicMessage::decode(descriptor.clone(), bytes);
                    message.unwrap().to_string()
                };
                assert_eq!(
                    shown(&ours),
                    shown(&theirs.encode_to_vec()),
                    "{name} {value}"
                );
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("{name} {value}:\n{ours:?}\n{theirs:?}"),
        }
    }

    fn values() -> Vec<Value> {
        let mut all = vec![
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!([null]),
        ];
        for number in [
            0,
            1,
            -1,
            127,
            128,
            300,
            i64::MAX,
            i64::MIN,
            2_147_483_648,
            -2_147_483_648,
        ] {
            all.extend([json!(number), json!(number.to_string())]);
        }
        for real in [0.5, 2.0, 1e20, 1e39, -1e39, 4_294_967_295.0] {
            all.push(json!(real));
        }
        all.push(json!(u64::MAX));
        for text in [
            "",
            "x",
            "NaN",
            "Infinity",
            "-Infinity",
            "1.5s",
            "-0.000000001s",
            "s",
            "315576000001s",
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.5+01:00",
            "2026-01-31",
            "YWI=",
            "YWI",
            "-_-_",
            "a.bC,d",
            "NULL_VALUE",
            "true",
            "HTTP1",
            "é",
        ] {
            all.push(json!(text));
        }
        // One entry each: the library shows a map's in any order.
        all.extend([json!({"a": [1, {"b": null}]}), json!({"": "x"})]);
        all
    }

    #[test]
    fn every_kind_of_value_is_read_as_the_library_reads_it() {
        let constant = "google.api.expr.v1alpha1.Constant";
        for value in values() {
            for field in [
                "null_value",
                "boolValue",
                "int64_value",
                "uint64Value",
                "double_value",
                "string_value",
                "bytes_value",
                "duration_value",
                "timestampValue",
            ] {
                check(constant, &json!({field: value}));
            }
            for wrapper in [
                "Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes",
            ] {
                check(&format!("google.protobuf.{wrapper}Value"), &value);
            }
            for known in ["Struct", "ListValue", "Value", "Empty", "Duration"] {
                check(&format!("google.protobuf.{known}"), &value);
            }
            check("envoy.config.core.v3.Locality", &json!({"region": value}));
            check(
                "envoy.config.core.v3.Metadata",
                &json!({"filterMetadata": {"x": value}}),
            );
            check("envoy.type.v3.Int32Range", &json!({"start": value}));
            check(
                "envoy.config.core.v3.SocketAddress",
                &json!({"protocol": value}),
            );
            check(
                "envoy.config.core.v3.SocketAddress",
                &json!({"port_value": value}),
            );
            check(
                "envoy.config.accesslog.v3.ResponseFlagFilter",
                &json!({"flags": value}),
            );
            check(
                "envoy.config.accesslog.v3.GrpcStatusFilter",
                &json!({"statuses": [value, "OK"]}),
            );
            check(
                "envoy.config.core.v3.HealthStatusSet",
                &json!({"statuses": [value, 3]}),
            );
        }
    }

    #[test]
    fn choices_are_made_once() {
        let name = "envoy.config.core.v3.SocketAddress";
        check(name, &json!({"address": "a", "port_value": 0}));
        check(name, &json!({"port_value": 0, "named_port": "x"}));
        check(name, &json!({"port_value": 0, "named_port": null}));
        check(name, &json!({"x": null}));
        let twice = json!({"portValue": 1, "port_value": 1});
        let error = Encoder::default().message(name, &twice, &Path::Whole);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "port_value: it cannot be given beside `portValue`");
    }

    #[test]
    fn equal_documents_give_equal_bytes() {
        let bytes = |value: &Value| {
            Encoder::default()
                .packed(value, &Path::Whole)
                .map(|(_, bytes)| bytes)
                .unwrap()
        };
        let url = "type.googleapis.com/google.protobuf.Struct";
        let one = json!({"@type": url, "value": {"a": 1, "b": {"c": 2, "d": 3}}});
        let other = json!({"value": {"b": {"d": 3, "c": 2}, "a": 1}, "@type": url});
        assert_eq!(bytes(&one), bytes(&other));
    }
}
