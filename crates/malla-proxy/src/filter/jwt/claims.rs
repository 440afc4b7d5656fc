//! What a good token gives: headers, and notes in dynamic metadata.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use malla_proxy_config::http_filter::JwtProvider;
use malla_proxy_config::metadata::{Object, Value as Tree};
use serde_json::{Map, Value};

use crate::jwt::status::Status;
use crate::jwt::token::Token;

/// The payload as its header carries it.
pub(super) fn payload_header(provider: &JwtProvider, token: &Token) -> Option<HeaderValue> {
    let mut text = token.payload.trim_end_matches('=').to_owned();
    if provider.pad_payload {
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
    } else {
        text.clone_from(&token.payload);
    }
    HeaderValue::from_str(&text).ok()
}

/// A claim as a header carries it: scalars as they are, the rest as JSON in Base64.
pub(super) fn claim_header(claims: &Map<String, Value>, path: &[String]) -> Option<HeaderValue> {
    let (first, rest) = path.split_first()?;
    let claim = rest
        .iter()
        .try_fold(claims.get(first)?, |value, key| value.get(key))?;
    let text = match claim {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => match number.as_f64().filter(|it| it.fract() != 0.0) {
            Some(fraction) => format!("{fraction:.6}"), // As C++ writes it.
            None => number.to_string(),
        },
        Value::Array(_) | Value::Object(_) => STANDARD.encode(claim.to_string()),
    };
    // What is no header value is left out: a claim must not write lines of its own.
    (!text.is_empty())
        .then(|| HeaderValue::from_str(&text).ok())
        .flatten()
}

/// What is noted of a good token.
pub(super) fn note(provider: &JwtProvider, token: &Token, out: &mut Object) {
    if let Some(key) = &provider.header_in_metadata {
        out.insert(key.clone(), tree(&token.header));
    }
    let Some(key) = &provider.payload_in_metadata else {
        return;
    };
    let mut payload = tree(&token.claims);
    if let Tree::Object(claims) = &mut payload {
        for name in &provider.space_delimited {
            if let Some(Tree::String(words)) = claims.get(name) {
                let words = words.split(' ').filter(|word| !word.is_empty());
                let words = words.map(|word| Tree::String(word.to_owned())).collect();
                claims.insert(name.clone(), Tree::List(words));
            }
        }
    }
    out.insert(key.clone(), payload);
}

/// What is noted of a bad one.
pub(super) fn note_failure(provider: &JwtProvider, status: Status, out: &mut Object) {
    if let Some(key) = &provider.failure_in_metadata {
        let failure = Object::from([
            ("code".to_owned(), Tree::Number(status.code().into())),
            ("message".to_owned(), Tree::String(status.text().to_owned())),
        ]);
        out.insert(key.clone(), Tree::Object(failure));
    }
}

fn tree(object: &Map<String, Value>) -> Tree {
    Tree::from_json(Value::Object(object.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::claim_header;

    #[test]
    fn claims_become_header_values() {
        let claims = json!({"sub": "a", "n": 7, "f": 1.5, "b": true, "l": ["x", 1],
            "o": {"p": {"q": "deep"}}, "evil": "a\r\nx-admin: 1", "empty": "", "null": null});
        let claims = claims.as_object().unwrap();
        let check = |path: &str, want: Option<&str>| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            let got = claim_header(claims, &path);
            assert_eq!(
                got.as_ref().map(|it| it.to_str().unwrap()),
                want,
                "{path:?}"
            );
        };
        check("sub", Some("a"));
        check("n", Some("7"));
        check("f", Some("1.500000"));
        check("b", Some("true"));
        check("l", Some("WyJ4IiwxXQ=="));
        check("o.p.q", Some("deep"));
        check("o.none", None);
        check("sub.more", None);
        check("evil", None);
        check("empty", None);
        check("null", None);
    }
}
