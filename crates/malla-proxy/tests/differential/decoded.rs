//! Questions to services, as text that two proxies must agree on: one line for each field, in order.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use malla_xds_proto::json;
use serde_json::Value;

/// Services whose messages are shown decoded: the path, and the message's type.
const KNOWN: [(&str, &str); 2] = [
    (
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        "type.googleapis.com/envoy.service.ratelimit.v3.RateLimitRequest",
    ),
    (
        "/envoy.service.auth.v3.Authorization/Check",
        "type.googleapis.com/envoy.service.auth.v3.CheckRequest",
    ),
];

/// The message of a call with this request line, if it is one of those that are known.
pub(crate) fn message(line: &str, body: &[u8]) -> Option<String> {
    let path = line.split(' ').nth(1)?;
    let (_, url) = KNOWN.iter().find(|(known, _)| *known == path)?;
    let mut lines = Vec::new();
    flatten("", &json::print_bytes(url, body.get(5..)?), &mut lines);
    lines.sort();
    Some(lines.concat())
}

/// What is base64 in JSON, as text, so that what is masked in text is masked here.
fn raw(value: &Value) -> String {
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default());
    bytes.unwrap_or_default().escape_ascii().to_string()
}

fn flatten(path: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                flatten(&format!("{path}/{name}"), field, lines);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{path}/{index}"), item, lines);
            }
        }
        value => {
            let name = path.rsplit('/').next().unwrap_or_default();
            let parent = path.rsplit('/').nth(1).unwrap_or_default();
            let shown = match (parent, name) {
                ("request", "time") | ("http", "id") => "<varies>".to_owned(),
                ("socket_address", "port_value") => "<port>".to_owned(),
                (_, "raw_value") => raw(value),
                _ => value.to_string(),
            };
            lines.push(format!("{path} = {shown}\n"));
        }
    }
}
