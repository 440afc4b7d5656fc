//! gRPC for browsers (`envoy.filters.http.grpc_web`): bodies that may be base64, trailers at the end of the body, and
//! answers that are no gRPC told in headers.
//!
//! Source: gRPC's PROTOCOL-WEB.md, and what Envoy makes of it. Nothing is held back but what is left of a base64 group.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::Note;
use crate::http::adaptor::{Adaptor, Broken};
use crate::http::answer::percent_encoded;
use crate::http::client_body::ClientBody;
use crate::http::error::ProxyError;
use crate::http::exchange::Exchange;
use crate::http::response::BodyOf;
use crate::telemetry::access_log::grpc_from_http;
use crate::upstream::{StreamError, Upstreams};

const BINARY: [&[u8]; 2] = [b"application/grpc-web", b"application/grpc-web+proto"];
const TEXT: [&[u8]; 2] = [
    b"application/grpc-web-text",
    b"application/grpc-web-text+proto",
];
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// The most of an answer's body that becomes a message, as in Envoy.
const MAX_MESSAGE: usize = 16 << 10;
/// The frame of trailers.
const TRAILERS: u8 = 0x80;
/// Envoy's words.
const NO_BASE64: &str = "Bad gRPC-web request, invalid base64 data.";

/// Turns a request of gRPC-Web into one of gRPC.
///
/// # Errors
/// When what has been read of it already is no base64.
pub(super) fn request<U: Upstreams>(x: &mut Exchange<U>, index: usize) -> Result<(), ProxyError> {
    let headers = &mut x.head.headers;
    let is = |name: HeaderName, types: &[&[u8]]| {
        let value = headers.get(name);
        value.is_some_and(|value| types.contains(&value.as_bytes()))
    };
    let text_request = is(CONTENT_TYPE, &TEXT);
    if !text_request && !is(CONTENT_TYPE, &BINARY) {
        return Ok(());
    }
    let text = is(ACCEPT, &TEXT);
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    x.notes.push((index, Note::GrpcWeb { text }));
    if x.is_upgrade() {
        return Ok(());
    }
    let flow = &x.flow;
    let body = x
        .body
        .get_or_insert_with(|| ClientBody::nothing(Rc::clone(flow)));
    body.forget_length();
    if text_request {
        let adapted = body.adapt(Box::<Decoded>::default());
        adapted.map_err(ProxyError::NotAsSaid)?;
    }
    Ok(())
}

/// Reads an answer that is no gRPC, to be told in headers.
pub(super) async fn read_answer<U: Upstreams>(
    x: &mut Exchange<U>,
    response: &mut Response<BodyOf<U>>,
    deadline: Option<Instant>,
) -> Result<(), StreamError> {
    let told = text_wanted(x).is_none()
        || is_grpc(response.status(), response.headers())
        || response.body().is_end_stream();
    if told {
        return Ok(());
    }
    let mut message = BytesMut::new();
    let body = response.body_mut();
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { break };
            let room = MAX_MESSAGE.saturating_sub(message.len()).min(data.len());
            message.put_slice(data.get(..room).unwrap_or_default());
        }
        Ok(())
    };
    match deadline {
        None => read.await?,
        // What has come by then is told.
        Some(at) => tokio::time::timeout_at(at, read).await.unwrap_or(Ok(()))?,
    }
    let status = response.status();
    tell(status, response.headers_mut(), &message);
    x.notes.push((usize::MAX, Note::BodyTold));
    Ok(())
}

/// An answer of the proxy's own, likewise. True if its body is gone.
pub(super) fn own_answer<U: Upstreams>(
    x: &Exchange<U>,
    status: StatusCode,
    headers: &mut HeaderMap,
    body: &[u8],
) -> bool {
    if body.is_empty() || text_wanted(x).is_none() || is_grpc(status, headers) {
        return false;
    }
    tell(status, headers, body.get(..MAX_MESSAGE).unwrap_or(body));
    true
}

/// What an answer says of itself, and how its trailers go on.
pub(super) fn respond<U: Upstreams>(x: &mut Exchange<U>, text: bool, headers: &mut HeaderMap) {
    let status = x.observer.record().status.unwrap_or(StatusCode::OK);
    if is_grpc(status, headers) {
        headers.remove(CONTENT_LENGTH);
        x.adapt(Box::new(Encoded::new(text)));
    }
    let content_type = match text {
        true => HeaderValue::from_static("application/grpc-web-text+proto"),
        false => HeaderValue::from_static("application/grpc-web+proto"),
    };
    headers.insert(CONTENT_TYPE, content_type);
}

/// Whether the request is one of gRPC-Web, and if its answer is to be base64.
fn text_wanted<U: Upstreams>(x: &Exchange<U>) -> Option<bool> {
    x.notes.iter().find_map(|(_, note)| match note {
        Note::GrpcWeb { text } => Some(*text),
        _ => None,
    })
}

/// True for an answer of gRPC, or of gRPC-Web already.
fn is_grpc(status: StatusCode, headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE);
    let value = value.map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = value.strip_prefix(b"application/grpc");
    let grpc = rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
    status == StatusCode::OK && (grpc || BINARY.contains(&value) || TEXT.contains(&value))
}

fn tell(status: StatusCode, headers: &mut HeaderMap, message: &[u8]) {
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc_from_http(status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
}

/// Bytes out of base64: whole groups of four.
#[derive(Default)]
pub(crate) struct Decoded {
    left: BytesMut,
}

impl Adaptor for Decoded {
    fn data(&mut self, data: Bytes) -> Result<Bytes, Broken> {
        self.left.extend_from_slice(&data);
        let whole = self.left.len() / 4 * 4;
        let group = self.left.split_to(whole);
        let decoded = STANDARD.decode(&group).map_err(|_| Broken {
            body: NO_BASE64,
            details: "grpc_base_64_decode_failed",
        })?;
        Ok(decoded.into())
    }

    fn end(&mut self, _: &mut Option<HeaderMap>) -> Result<Bytes, Broken> {
        if self.left.is_empty() {
            return Ok(Bytes::new());
        }
        Err(Broken {
            body: NO_BASE64,
            details: "grpc_base_64_decode_failed_bad_size",
        })
    }
}

/// A body of gRPC with its trailers at its end; as base64, each message for itself.
#[derive(Default)]
pub(crate) struct Encoded {
    text: bool,
    /// Bytes of the message's head that have come, and what it says.
    head: u8,
    length: u32,
    /// Bytes of the message still to come.
    left: u32,
    /// Not yet a group of three.
    group: BytesMut,
}

/// Bytes before each message.
const HEAD: u8 = 5;

impl Encoded {
    /// As base64, or as it is.
    pub(crate) fn new(text: bool) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    /// Takes the part of `data` that belongs to the message under way.
    fn part(&mut self, data: &mut Bytes, out: &mut String) {
        if self.head < HEAD {
            let Some(first) = data.first().copied() else {
                return;
            };
            if self.head > 0 {
                self.length = self.length << 8 | u32::from(first);
            }
            self.head += 1;
            self.left = self.length;
            self.group.extend_from_slice(&data.split_to(1));
        } else {
            let length = data
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.group.extend_from_slice(&data.split_to(length));
            self.left -= u32::try_from(length).unwrap_or(self.left);
        }
        let whole = self.group.len() / 3 * 3;
        STANDARD.encode_string(self.group.split_to(whole), out);
        if self.head == HEAD && self.left == 0 {
            STANDARD.encode_string(self.group.split(), out);
            (self.head, self.length) = (0, 0);
        }
    }
}

impl Adaptor for Encoded {
    fn data(&mut self, mut data: Bytes) -> Result<Bytes, Broken> {
        if !self.text {
            return Ok(data);
        }
        let mut out = String::with_capacity(data.len() / 3 * 4 + 8);
        while !data.is_empty() {
            self.part(&mut data, &mut out);
        }
        Ok(out.into())
    }

    fn end(&mut self, trailers: &mut Option<HeaderMap>) -> Result<Bytes, Broken> {
        let Some(trailers) = trailers.take() else {
            return Ok(Bytes::new());
        };
        let mut lines = Vec::new();
        for (name, value) in &trailers {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.push(b':');
            lines.extend_from_slice(value.as_bytes());
            lines.extend_from_slice(b"\r\n");
        }
        let mut frame = vec![TRAILERS];
        // The codecs allow much less.
        frame.extend(u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(lines);
        Ok(match self.text {
            true => STANDARD.encode(frame).into(),
            false => frame.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::{Adaptor, Decoded, Encoded};

    fn cut(mut body: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let mut out = Vec::new();
        for cut in cuts.iter().cycle() {
            if body.is_empty() {
                return out;
            }
            let (piece, rest) = body.split_at((*cut).min(body.len()));
            out.push(Bytes::copy_from_slice(piece));
            body = rest;
        }
        out
    }

    proptest! {
        #[test]
        fn each_message_is_one_base64_however_it_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..10),
        ) {
            let mut body = Vec::new();
            let mut want = String::new();
            for message in &messages {
                let mut framed = vec![0];
                framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                framed.extend(message);
                STANDARD.encode_string(&framed, &mut want);
                body.extend(framed);
            }
            let mut encoded = Encoded::new(true);
            let mut got = Vec::new();
            for piece in cut(&body, &cuts) {
                got.extend(encoded.data(piece).unwrap());
            }
            let mut trailers = Some(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]));
            prop_assert_eq!(String::from_utf8(got.clone()).unwrap(), want);
            let tail = STANDARD.decode(encoded.end(&mut trailers).unwrap()).unwrap();
            prop_assert_eq!(tail, b"\x80\0\0\0\x0fgrpc-status:0\r\n");
            prop_assert!(trailers.is_none());
        }

        #[test]
        fn base64_is_decoded_however_it_is_cut(
            body in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(1usize..20, 1..10),
        ) {
            let mut decoded = Decoded::default();
            let mut got = Vec::new();
            for piece in cut(STANDARD.encode(&body).as_bytes(), &cuts) {
                got.extend(decoded.data(piece).unwrap());
            }
            prop_assert!(decoded.end(&mut None).is_ok());
            prop_assert_eq!(got, body);
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        let refused = |text: &'static str| {
            let mut decoded = Decoded::default();
            let data = decoded.data(Bytes::from_static(text.as_bytes()));
            match data.and_then(|_| decoded.end(&mut None)) {
                Ok(_) => "",
                Err(broken) => broken.details,
            }
        };
        assert_eq!(refused("AAAA"), "");
        assert_eq!(refused("AAA"), "grpc_base_64_decode_failed_bad_size");
        assert_eq!(refused("AA*A"), "grpc_base_64_decode_failed");
        assert_eq!(refused("AA=A"), "grpc_base_64_decode_failed");
    }
}
