//! JSON log lines.

use malla_proxy_config::format::{Format, JsonFormat, Segment};

use super::value::{Source, Value};

/// Calls `see` with every format in the tree.
pub(super) fn visit<'a>(format: &'a JsonFormat, see: &mut impl FnMut(&'a Format)) {
    match format {
        JsonFormat::Object(fields) => fields.iter().for_each(|(_, value)| visit(value, see)),
        JsonFormat::List(items) => items.iter().for_each(|value| visit(value, see)),
        JsonFormat::Text(text) => see(text),
        JsonFormat::Literal(_) => {}
    }
}

/// Appends the tree.
pub(super) fn write(format: &JsonFormat, source: &Source<'_>, omit_empty: bool, out: &mut Vec<u8>) {
    match format {
        JsonFormat::Object(fields) => {
            out.push(b'{');
            let mut first = true;
            for (key, value) in fields {
                let start = out.len();
                if !first {
                    out.push(b',');
                }
                quote(key.as_bytes(), out);
                out.push(b':');
                let before = out.len();
                write(value, source, omit_empty, out);
                if omit_empty && out.get(before..) == Some(b"null") {
                    out.truncate(start);
                } else {
                    first = false;
                }
            }
            out.push(b'}');
        }
        JsonFormat::List(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, source, omit_empty, out);
            }
            out.push(b']');
        }
        JsonFormat::Literal(text) => out.extend_from_slice(text.as_bytes()),
        JsonFormat::Text(format) => write_string(format, source, omit_empty, out),
    }
}

/// A single command keeps its type; anything else is a string.
fn write_string(format: &Format, source: &Source<'_>, omit_empty: bool, out: &mut Vec<u8>) {
    if let [
        Segment::Command {
            operator,
            max_length,
        },
    ] = format.0.as_slice()
    {
        match source.value(operator) {
            Value::None | Value::Nothing => out.extend_from_slice(b"null"),
            Value::Number(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes())
            }
            Value::Json(value) | Value::Cel(_, value) => write_value(&value, out),
            Value::Quoted(text) => quote(text.as_bytes(), out),
            value => {
                let mut text = Vec::new();
                value.write(b"", &mut text);
                text.truncate(max_length.unwrap_or(usize::MAX));
                quote(&text, out);
            }
        }
        return;
    }
    let mut text = Vec::new();
    let missing: &[u8] = if omit_empty { b"" } else { b"-" };
    super::write_text(format, source, missing, &mut text);
    quote(&text, out);
}

/// Appends a value as it is; fields come in alphabetical order.
pub(super) fn write_value(value: &serde_json::Value, out: &mut Vec<u8>) {
    // Writing into a vector cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// A JSON string; bytes that are not UTF-8 become replacement characters.
pub(crate) fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
