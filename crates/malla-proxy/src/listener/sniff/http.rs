//! Tells plain-text HTTP/1.0, HTTP/1.1 and HTTP/2 from other protocols by the first line.
use super::{MAX_PEEK, Verdict};

/// The protocols told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpKind {
    Http10,
    Http11,
    /// HTTP/2 with prior knowledge.
    H2c,
}

impl HttpKind {
    /// As matched by `application_protocols` (Envoy's http_inspector).
    pub fn name(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::H2c => "h2c",
        }
    }
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer than any registered method.
const MAX_METHOD: usize = 32;

/// Decides whether a stream starts with HTTP.
pub fn inspect_http(prefix: &[u8]) -> Verdict<HttpKind> {
    let common = prefix
        .iter()
        .zip(PREFACE)
        .take_while(|(a, b)| a == b)
        .count();
    if common == PREFACE.len() {
        return Verdict::Is(HttpKind::H2c);
    }
    if common == prefix.len() {
        return Verdict::More;
    }
    // RFC 9112 §2.2: a server should ignore empty lines before the request line.
    let start = prefix
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    let line = &prefix[start..];
    let end = memchr::memchr(b'\n', line);
    let seen = end.map_or(line, |end| &line[..end]);
    if !could_be_request_line(seen) {
        return Verdict::IsNot;
    }
    let line = match end {
        None if prefix.len() >= MAX_PEEK => return Verdict::IsNot,
        None => return Verdict::More,
        Some(end) => line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]),
    };
    match memchr::memrchr(b' ', line).map(|space| &line[space + 1..]) {
        Some(b"HTTP/1.1") => Verdict::Is(HttpKind::Http11),
        Some(b"HTTP/1.0") => Verdict::Is(HttpKind::Http10),
        _ => Verdict::IsNot,
    }
}

/// Method, space, target: rejects binary and line protocols at the first byte that does not fit.
fn could_be_request_line(line: &[u8]) -> bool {
    let method = line
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_'))
        .count();
    let after = line.get(method);
    let fits = match after {
        None => method <= MAX_METHOD,
        Some(b' ') => (1..=MAX_METHOD).contains(&method),
        Some(b'\r') => method == 0,
        Some(_) => false,
    };
    fits && line
        .iter()
        .all(|&byte| byte > 0x1f && byte != 0x7f || byte == b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::any;
    use proptest::proptest;

    use super::{HttpKind, PREFACE, Verdict, inspect_http};

    #[test]
    fn protocols_are_told_apart() {
        use Verdict::{Is, IsNot, More};
        let cases: &[(&[u8], Verdict<HttpKind>)] = &[
            (b"GET / HTTP/1.1\r\nhost: a\r\n", Is(HttpKind::Http11)),
            (b"\r\nGET / HTTP/1.1\r\n", Is(HttpKind::Http11)),
            (b"M-SEARCH * HTTP/1.0\n", Is(HttpKind::Http10)),
            (PREFACE, Is(HttpKind::H2c)),
            (b"PRI * HT", More),
            (b"PRINT / HTTP/1.1\r\n", Is(HttpKind::Http11)),
            (b"GET / HTTP/1.1", More),
            (b"", More),
            (b"GET /\r\n", IsNot),
            (b"GET / HTTP/3.0\r\n", IsNot),
            (b"*1\r\n$4\r\nPING\r\n", IsNot),
            (b"\x4a\x00\x00\x00\x0a8.0", IsNot),
            (b"SSH-2.0-OpenSSH_9\r\n", IsNot),
            (b"GET /\x00 HTTP/1.1\r\n", IsNot),
            (&[b'A'; 100], IsNot),
        ];
        for (bytes, want) in cases {
            assert_eq!(
                inspect_http(bytes),
                *want,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = inspect_http(&bytes);
        }
    }
}
