//! Writes protobuf straight into a buffer: spans and log entries are made once for each request and never read again
//! here, so no message is built for them.
//!
//! Invariant: what is written is what `prost` would read back; fields that have their default are left out by callers.

/// Wire types (<https://protobuf.dev/programming-guides/encoding/>).
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_bits(value) | 0x80);
        value >>= 7;
    }
    out.push(low_bits(value));
}

fn low_bits(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or(0)
}

/// Bytes of a varint.
fn width(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn tag(out: &mut Vec<u8>, field: u32, kind: u32) {
    varint(out, u64::from(field << 3 | kind));
}

/// An integer, enumeration or boolean.
pub fn uint(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// A `fixed64`.
pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A `bytes`, or a `string` that is known to be UTF-8.
pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A `string` of anybody's bytes; those that are not UTF-8 become `!`, as in Envoy.
pub fn text(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    match std::str::from_utf8(value) {
        Ok(_) => bytes(out, field, value),
        Err(_) => bytes(out, field, sanitised(value).as_bytes()),
    }
}

fn sanitised(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
    out
}

/// A message that `write` writes the fields of.
pub fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    let start = out.len() + 1;
    out.push(0);
    write(out);
    let length = (out.len() - start) as u64;
    // Most are shorter than 128 bytes: one byte was right. Else the fields move up.
    let more = width(length) - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(start..end, start + more);
    }
    let mut prefix = Vec::with_capacity(width(length));
    varint(&mut prefix, length);
    if let Some(place) = out.get_mut(start - 1..start + more) {
        place.copy_from_slice(&prefix);
    }
}

/// The beginning of a message of `length` bytes that follow.
pub fn begin_message(out: &mut Vec<u8>, field: u32, length: usize) {
    tag(out, field, LENGTH);
    varint(out, length as u64);
}

/// An entry of a `map<string, string>`.
pub fn entry(out: &mut Vec<u8>, field: u32, key: &str, value: &[u8]) {
    message(out, field, |out| {
        bytes(out, 1, key.as_bytes());
        text(out, 2, value);
    });
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::pb::google::protobuf::{Any, Struct, Timestamp};
    use proptest::prelude::{prop_assert_eq, proptest};
    use prost::Message as _;

    use super::{bytes, message, text, uint};

    proptest! {
        #[test]
        fn prost_reads_what_is_written(seconds: u32, nanos: u32, url: String, value: Vec<u8>) {
            let mut out = Vec::new();
            uint(&mut out, 1, seconds.into());
            uint(&mut out, 2, (nanos >> 1).into());
            let read = Timestamp::decode(&*out).unwrap();
            prop_assert_eq!((read.seconds, read.nanos), (i64::from(seconds), (nanos >> 1) as i32));
            let mut out = Vec::new();
            bytes(&mut out, 1, url.as_bytes());
            bytes(&mut out, 2, &value);
            prop_assert_eq!(Any::decode(&*out).unwrap(), Any { type_url: url, value });
        }
    }

    #[test]
    fn messages_of_any_length() {
        for length in [0, 1, 120, 127, 128, 129, 16_383, 16_384, 70_000] {
            let key = "k".repeat(length);
            let mut out = Vec::new();
            message(&mut out, 1, |out| {
                bytes(out, 1, key.as_bytes());
                message(out, 2, |out| text(out, 3, b"\xffv"));
            });
            let read = Struct::decode(&*out).unwrap();
            let value = read.fields[&key].kind.clone().unwrap();
            let want = malla_xds_proto::pb::google::protobuf::value::Kind::StringValue("!v".into());
            assert_eq!(value, want, "{length}");
        }
    }
}
