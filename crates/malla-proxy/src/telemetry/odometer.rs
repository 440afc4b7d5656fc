//! Bytes of heads, and of whole messages on the wire, for logs that ask for them.
//!
//! Over HTTP/1 they are what Envoy counts: of heads that came, three bytes for each field beside its name and value, of
//! those that went, four; first lines only on the wire. Over HTTP/2 the codec does not tell how well it compressed: heads
//! count as long as they are before that, and each head and each piece of a body has nine bytes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderMap, Method, StatusCode, Uri, Version, header};

use super::export::entry::header_bytes;

/// Bytes of a frame's head (RFC 9113 §4.1).
pub const FRAME: u64 = 9;
/// What the HTTP/1 codec adds: `date: …` with its line end, and how the body is framed.
const DATE: u64 = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len() as u64;
const CHUNKED: u64 = "transfer-encoding: chunked\r\n".len() as u64;
/// The chunk that ends a body.
const LAST_CHUNK: u64 = "0\r\n\r\n".len() as u64;

/// What passed on both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    pub downstream: WireBytes,
    pub upstream: WireBytes,
}

/// Bytes of one exchange on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireBytes {
    pub received: u64,
    pub sent: u64,
    /// Of heads.
    pub heads_received: u64,
    pub heads_sent: u64,
    /// The same before compression.
    pub plain_received: u64,
    pub plain_sent: u64,
}

impl WireBytes {
    /// Counts a head that came.
    pub fn head_came(&mut self, head: Head) {
        self.plain_received = head.plain;
        self.heads_received = head.counted;
        if head.http2 {
            self.received += head.counted;
        }
    }

    /// Adds those of another try.
    pub fn add(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.heads_received += other.heads_received;
        self.heads_sent += other.heads_sent;
        self.plain_received += other.plain_received;
        self.plain_sent += other.plain_sent;
    }

    /// The body that goes has chunks over HTTP/1; `added` if the codec says so in the head.
    pub fn chunked(&mut self, added: bool, protocol: Option<Version>) {
        if protocol == Some(Version::HTTP_2) {
            return;
        }
        let said = if added { CHUNKED } else { 0 };
        self.plain_sent += said;
        self.heads_sent += said;
        self.sent += said + LAST_CHUNK;
    }

    /// Counts a head that went.
    pub fn head_went(&mut self, head: Head) {
        self.plain_sent = head.plain;
        self.heads_sent = head.counted;
        self.sent += head.wire;
    }
}

/// The lengths of a head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    plain: u64,
    counted: u64,
    wire: u64,
    http2: bool,
}

impl Head {
    fn http1(headers: &HeaderMap, each: u64, first_line: u64) -> Self {
        let counted = header_bytes(headers) + each * headers.len() as u64;
        Self {
            plain: counted,
            counted,
            wire: counted + first_line + 2,
            http2: false,
        }
    }

    fn http2(headers: &HeaderMap, pseudo: u64) -> Self {
        let plain = header_bytes(headers) + pseudo;
        Self {
            plain,
            counted: plain + FRAME,
            wire: plain + FRAME,
            http2: true,
        }
    }

    /// Of a request that came.
    pub fn request_came(method: &Method, uri: &Uri, headers: &HeaderMap, http2: bool) -> Self {
        match http2 {
            true => Self::http2(headers, pseudo(method, uri)),
            false => Self::http1(headers, 3, 0),
        }
    }

    /// Of a request that goes; its codec has added what it adds.
    pub fn request_goes(method: &Method, uri: &Uri, headers: &HeaderMap, http2: bool) -> Self {
        match http2 {
            true => Self::http2(headers, pseudo(method, uri)),
            false => {
                let target = uri.path_and_query().map_or(1, |path| path.as_str().len());
                let line = method.as_str().len() + target + "  HTTP/1.1\r\n".len();
                Self::http1(headers, 4, line as u64)
            }
        }
    }

    /// Of an answer that came.
    pub fn answer_came(headers: &HeaderMap, http2: bool) -> Self {
        match http2 {
            true => Self::http2(headers, ":status200".len() as u64),
            false => Self::http1(headers, 3, 0),
        }
    }

    /// Of an answer that goes; `date` is what the codec adds to it.
    pub fn answer_goes(status: StatusCode, headers: &HeaderMap, http2: bool) -> Self {
        let date = !headers.contains_key(header::DATE);
        let mut head = match http2 {
            true => Self::http2(headers, ":status200".len() as u64),
            false => {
                let reason = status.canonical_reason().map_or(0, str::len);
                Self::http1(headers, 4, ("HTTP/1.1 200 \r\n".len() + reason) as u64)
            }
        };
        if date {
            head.grow(DATE - if http2 { 4 } else { 0 });
        }
        head
    }

    fn grow(&mut self, bytes: u64) {
        self.plain += bytes;
        self.counted += bytes;
        self.wire += bytes;
    }
}

fn pseudo(method: &Method, uri: &Uri) -> u64 {
    const NAMES: usize = ":method:scheme:path".len();
    let scheme = uri.scheme_str().map_or("http".len(), str::len);
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |name| ":authority".len() + name.as_str().len());
    (NAMES + method.as_str().len() + scheme + path + authority) as u64
}

/// What a piece of a body takes beside its data: a chunk's frame, or an HTTP/2 frame's head.
pub fn framing(length: u64, http2: bool) -> u64 {
    match http2 {
        true => FRAME,
        false => u64::from(length.checked_ilog2().unwrap_or(0) / 4) + 1 + 4,
    }
}

/// Bytes that have passed on a connection.
#[derive(Debug, Default)]
pub struct Odometer {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Odometer {
    /// What has come and what has gone.
    pub fn passed(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    pub fn came(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub fn went(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }
}

/// What one try has moved on its connection.
#[derive(Debug, Clone, Default)]
pub struct Trip {
    bytes: WireBytes,
    /// Of a connection that serves one request at a time, and where it stood at the begin.
    odometer: Option<(Arc<Odometer>, u64, u64)>,
}

impl Trip {
    /// Begins to count the request of this head.
    pub fn begin(head: Head, odometer: Option<&Arc<Odometer>>) -> Self {
        let mut bytes = WireBytes::default();
        bytes.head_went(head);
        let odometer = odometer.map(|odometer| {
            let came = odometer.received.load(Relaxed);
            (Arc::clone(odometer), came, odometer.sent.load(Relaxed))
        });
        Self { bytes, odometer }
    }

    /// Counts the head of the answer.
    pub fn answered(&mut self, head: Head) {
        self.bytes.head_came(head);
    }

    /// What has passed so far; the bodies' bytes and pieces count where the connection does not.
    pub fn bytes(&self, sent: (u64, u64), received: (u64, u64)) -> WireBytes {
        let mut bytes = self.bytes;
        match &self.odometer {
            Some((odometer, came, went)) => {
                bytes.received = odometer.received.load(Relaxed).saturating_sub(*came);
                bytes.sent = odometer.sent.load(Relaxed).saturating_sub(*went);
            }
            None => {
                bytes.received += received.0 + FRAME * received.1;
                bytes.sent += sent.0 + FRAME * sent.1;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode, Uri, Version};

    use super::{Head, WireBytes, framing};

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn heads_are_as_long_as_envoy_says() {
        let uri: Uri = "/plain?a=1".parse().unwrap();
        let fields = headers(&[("host", "127.0.0.1:10001"), ("accept", "*/*")]);
        let mut bytes = WireBytes::default();
        bytes.head_came(Head::request_came(&Method::GET, &uri, &fields, false));
        assert_eq!((bytes.heads_received, bytes.received), (34, 0));
        bytes.head_went(Head::request_goes(&Method::GET, &uri, &fields, false));
        let line = "GET /plain?a=1 HTTP/1.1\r\n\r\n".len() as u64;
        assert_eq!((bytes.heads_sent, bytes.sent), (36, 36 + line));
        let dated = headers(&[("date", "then")]);
        let head = Head::answer_goes(StatusCode::OK, &dated, false);
        assert_eq!((head.counted, head.wire), (12, 12 + 19));
        let mut bytes = WireBytes::default();
        bytes.head_went(head);
        bytes.chunked(true, Some(Version::HTTP_11));
        assert_eq!((bytes.heads_sent, bytes.sent), (40, 40 + 19 + 5));
    }

    #[test]
    fn chunks_have_frames() {
        let check = |length: u64, want: u64| assert_eq!(framing(length, false), want, "{length}");
        check(5, "5\r\n\r\n".len() as u64);
        check(15, 5);
        check(16, 6);
        check(4096, 8);
        assert_eq!(framing(5, true), 9);
    }
}
