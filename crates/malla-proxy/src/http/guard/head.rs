//! What the head of an HTTP/1 request says of its framing, or why it is refused: Envoy's rules and its words.
//!
//! Stricter than Envoy where leniency has been an attack (RFC 9112 §11.2): folded lines, bare CR, more than one `Host`,
//! white space other than one space in the request line.

use http::StatusCode;

use crate::telemetry::flags::Flag;

/// Methods that are known where a listener does not allow others (Envoy's balsa codec).
const METHODS: [&[u8]; 34] = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"MSEARCH",
    b"M-SEARCH",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
];

/// Fields that `Connection` may name.
const NOMINATED: usize = 10;

/// What a listener allows.
#[derive(Debug, Clone)]
pub(in crate::http) struct Rules {
    /// Bytes of a head.
    pub(in crate::http) head_bytes: usize,
    /// Fields of a head.
    pub(in crate::http) fields: usize,
    pub(in crate::http) custom_methods: bool,
    /// `content-length` beside `transfer-encoding`: the chunks count.
    pub(in crate::http) chunked_length: bool,
    pub(in crate::http) http_10: bool,
    /// Names with underscores.
    pub(in crate::http) underscores: bool,
}

/// An answer in place of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Refusal {
    pub(in crate::http) status: StatusCode,
    pub(in crate::http) details: &'static str,
    /// What the client reads; else the status's name.
    pub(in crate::http) text: Option<&'static str>,
    pub(in crate::http) flag: Option<Flag>,
}

impl Refusal {
    pub(in crate::http) const fn bad(details: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, details)
    }

    const fn new(status: StatusCode, details: &'static str) -> Self {
        Self {
            status,
            details,
            text: None,
            flag: Some(Flag::DownstreamProtocolError),
        }
    }

    const fn late(details: &'static str, text: &'static str, flag: Option<Flag>) -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            details,
            text: Some(text),
            flag,
        }
    }
}

/// A head that takes longer than it may.
pub(in crate::http) const HEAD_LATE: Refusal =
    Refusal::late("request_header_timeout", "request header timeout", None);
/// A head that does not move.
pub(in crate::http) const HEAD_IDLE: Refusal = Refusal::late(
    "stream_idle_timeout",
    "stream timeout",
    Some(Flag::StreamIdleTimeout),
);
const CODEC: Refusal = Refusal::bad("http1.codec_error");
const CHARACTERS: Refusal = Refusal::bad("http1.invalid_characters");
const AUTHORITY: Refusal = Refusal::bad("http.invalid_authority");
const CODING: Refusal = Refusal::new(
    StatusCode::NOT_IMPLEMENTED,
    "http1.invalid_transfer_encoding",
);
const VERSION: Refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "low_version");
pub(super) const TOO_LARGE: Refusal = Refusal::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "http1.headers_too_large",
);
const TOO_MANY: Refusal = Refusal::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "http1.too_many_headers",
);

/// How the message goes on behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) body: BodyLength,
    /// It asks for a tunnel: nothing is known of what comes behind it until it is answered.
    pub(super) upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    Bytes(u64),
    Chunks,
}

/// Reads a whole head, the empty line included.
pub(super) fn check(head: &[u8], rules: &Rules) -> Result<Framing, Refusal> {
    let mut lines = lines(head);
    let request_line = lines.next().unwrap_or_default();
    let RequestLine { connect, http_10 } = check_request_line(request_line, rules)?;
    let mut length = None;
    let mut chunked = false;
    let mut hosts = 0;
    let mut upgrade = connect;
    let mut count = 0;
    for line in lines {
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > rules.fields {
            return Err(TOO_MANY);
        }
        let (name, value) = field(line)?;
        if !rules.underscores && memchr::memchr(b'_', name).is_some() {
            return Err(Refusal::bad("http1.unexpected_underscore"));
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                hosts += 1;
                if hosts > 1 || !value.iter().all(|byte| is_authority_byte(*byte)) {
                    return Err(AUTHORITY);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => upgrade = true,
            10 if name.eq_ignore_ascii_case(b"connection") => check_connection(value)?,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if length.is_some() {
                    return Err(CODEC);
                }
                length = Some(decimal(value).ok_or(CODEC)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(CODING);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    if chunked && length.is_some() && !rules.chunked_length {
        return Err(Refusal::bad("http1.content_length_and_chunked_not_allowed"));
    }
    if chunked && http_10 {
        // It did not know chunks: who sends both means something else (RFC 9112 §6.1).
        return Err(CODEC);
    }
    let body = if chunked {
        BodyLength::Chunks
    } else {
        BodyLength::Bytes(length.unwrap_or(0))
    };
    Ok(Framing { body, upgrade })
}

/// The lines without their ends; a bare LF is an end, too.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut rest = start
        .and_then(|start| head.get(start..))
        .unwrap_or_default();
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let line = rest.get(..end)?;
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

struct RequestLine {
    connect: bool,
    http_10: bool,
}

fn check_request_line(line: &[u8], rules: &Rules) -> Result<RequestLine, Refusal> {
    if line.iter().any(|byte| is_control(*byte)) {
        let known = line.first().is_some_and(u8::is_ascii_uppercase);
        return Err(if known { CHARACTERS } else { CODEC });
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next());
    let (version, more) = (words.next(), words.next());
    let known = METHODS.contains(&method) || method == b"UNSUBSCRIBE";
    let custom = rules.custom_methods && !method.is_empty() && method.iter().all(|b| is_token(*b));
    if !known && !custom || more.is_some() {
        return Err(CODEC);
    }
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Err(CODEC);
    };
    match version {
        Some(b"HTTP/1.1") => {}
        Some(b"HTTP/1.0") if rules.http_10 => {}
        None => return Err(VERSION),
        Some(text) if is_version(text) => return Err(VERSION),
        Some(_) => return Err(CODEC),
    }
    let connect = method == b"CONNECT";
    check_target(target, method, connect)?;
    Ok(RequestLine {
        connect,
        http_10: version == Some(b"HTTP/1.0"),
    })
}

fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn check_target(target: &[u8], method: &[u8], connect: bool) -> Result<(), Refusal> {
    // What a URI may not hold (RFC 3986 §2), as far as anybody behind might read it differently.
    if target
        .iter()
        .any(|byte| !byte.is_ascii() || b"<>`#".contains(byte))
    {
        return Err(CODEC);
    }
    match target {
        _ if connect => Ok(()),
        [b'/', ..] => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        b"*" => Err(Refusal::bad("http1.invalid_url")),
        _ => {
            let at = memchr::memmem::find(target, b"://").ok_or(CODEC)?;
            let scheme = target.get(..at).unwrap_or_default();
            if scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https") {
                Ok(())
            } else {
                Err(Refusal::bad("http1.invalid_scheme"))
            }
        }
    }
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = memchr::memchr(b':', line).ok_or_else(|| unreadable(line))?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(unreadable(name));
    }
    if memchr::memchr(b'\r', value).is_some() {
        return Err(CODEC);
    }
    if value.iter().any(|byte| is_control(*byte)) {
        return Err(CHARACTERS);
    }
    Ok((name, value))
}

/// `Connection` may not take away what says who asks, and only names so many fields (Envoy's limit).
fn check_connection(value: &[u8]) -> Result<(), Refusal> {
    let rejected = Refusal::bad("http1.connection_header_rejected");
    let mut count = 0;
    for word in value.split(|byte| *byte == b',') {
        count += 1;
        let word = word.trim_ascii();
        let kept = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        if count > NOMINATED
            || word.starts_with(b":")
            || kept
                .iter()
                .any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
        {
            return Err(rejected);
        }
    }
    Ok(())
}

/// No field line; NUL is told apart.
fn unreadable(bytes: &[u8]) -> Refusal {
    if bytes.contains(&0) {
        CHARACTERS
    } else {
        CODEC
    }
}

fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' || byte == 0x7f
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What an authority may be made of (RFC 3986 §3.2).
pub(in crate::http) fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]@!$&'()*+,;=%".contains(&byte)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}
