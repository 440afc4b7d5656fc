//! What HTTP filters read of strangers (tokens, keys, gRPC-Web, queries, trace contexts), and what the services that a proxy
//! asks answer (authorization, rate limits, health, names).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use malla_proxy::call::one_message;
use malla_proxy::fuzzing;
use malla_proxy::jwt::keys::Jwks;
use malla_proxy::jwt::token::Token;
use malla_proxy::telemetry::trace::context::{
    TRACEPARENT, b3, b3_single, traceparent, traceparent_value, write_b3,
};
use malla_proxy::upstream::dns::{answered, looked_up};
use malla_proxy::upstream::health::is_serving;
use prost::Message as _;

use crate::input::Input;

/// A token, and after a line end the keys that are to verify it: reading either twice gives the same, and what holds no
/// signature is never verified.
pub fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (token, keys) = text.split_once('\n').unwrap_or((text, ""));
    let keys = Jwks::parse(keys);
    let Ok(token) = Token::parse(token) else {
        return;
    };
    for now in [0, 1 << 31, u64::MAX] {
        for skew in [0, 60, u64::MAX] {
            let first = token.check_time(now, skew);
            assert_eq!(first.is_ok(), token.check_time(now, skew).is_ok());
        }
    }
    if let Ok(keys) = keys {
        let verified = keys.verify(&token).is_ok();
        assert_eq!(verified, keys.verify(&token).is_ok());
        assert!(!(verified && token.signature.is_empty()));
    }
}

/// A body of gRPC-Web, its first byte saying how it is cut: however it is cut, it means the same.
pub fn grpc_web(data: &[u8]) {
    let Some((cut, body)) = data.split_first() else {
        return;
    };
    let pieces: Vec<&[u8]> = body.chunks(usize::from(*cut).max(1)).collect();
    let whole = fuzzing::grpc_web_decoded(&[body]);
    let decoded = fuzzing::grpc_web_decoded(&pieces);
    // Padding may end a piece, but not stand within one.
    if !body.contains(&b'=') || whole.is_some() {
        assert_eq!(decoded, whole);
    }
    let encoded = fuzzing::grpc_web_encoded(&[body]);
    assert_eq!(fuzzing::grpc_web_encoded(&pieces), encoded);
    assert!(encoded.is_ascii());
}

/// A parameter of a query: what is decoded has no more bytes than there were, but where they are no text.
pub fn queries(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let decoded = fuzzing::query_decoded(text);
    assert!(decoded.chars().count() <= text.len());
    if !text.contains('%') {
        assert_eq!(decoded, text);
    }
}

/// Answers of services, by the first byte: authorization, rate limits, health.
pub fn service_answers(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let body = input.rest();
    match kind % 3 {
        0 => {
            if let Some((_, off)) = fuzzing::authz_decided(body) {
                assert_eq!(off, None);
            }
        }
        1 => {
            let Some((request, response)) = fuzzing::limiter_told(body) else {
                return;
            };
            for headers in [request, response] {
                assert!(!headers.contains_key(header::CONTENT_LENGTH));
                assert!(!headers.contains_key(header::TRANSFER_ENCODING));
            }
        }
        _ => {
            /// `grpc.health.v1.HealthCheckResponse`, as anybody else reads it.
            #[derive(prost::Message)]
            struct Health {
                #[prost(int32, tag = "1")]
                status: i32,
            }
            let read = one_message(body).and_then(|message| Health::decode(message).ok());
            assert_eq!(is_serving(body), read.is_some_and(|it| it.status == 1));
        }
    }
}

/// A name server's datagram; and a text as `resolv.conf` and `hosts`, its first line the name that is asked for.
pub fn dns_answers(data: &[u8]) {
    if let Some((addresses, _)) = answered(data) {
        // A record is no shorter than the name of the root, its type, class, lifetime, length and an address.
        assert!((1..=data.len() / 15).contains(&addresses));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (name, text) = text.split_once('\n').unwrap_or((text, ""));
    let (names, addresses) = looked_up(text, name);
    assert!(!names.is_empty() && addresses.len() <= text.len());
}

/// Headers of a trace (`name: value` lines): what is read is written back as something that reads as the same.
pub fn trace_contexts(data: &[u8]) {
    let _ = b3_single(data, true);
    if let Ok(context) = traceparent(data) {
        let written = traceparent_value(context.trace, context.span, context.sampled);
        assert_eq!(traceparent(written.as_bytes()), Ok(context));
    }
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        let at = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(at.unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    for w3c in [false, true] {
        let Ok((_, Some(context))) = b3(&headers, true, w3c) else {
            continue;
        };
        let mut written = HeaderMap::new();
        write_b3(&mut written, &context, true);
        let again = b3(&written, context.sampled, false).map(|(_, again)| again);
        assert_eq!(again, Ok(Some(context)));
        assert!(!written.contains_key(TRACEPARENT));
    }
}
