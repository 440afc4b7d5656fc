//! A raw HTTP/1 client: sends bytes as given, reads one answer, and makes answers comparable.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// One answer, as far as two proxies must agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) closed: bool,
}

/// Sends `request` on a new connection and reads the answer.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).expect("the proxy accepts");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let no_body = request.starts_with("HEAD ");
    read_answer(&mut stream, no_body)
}

/// Reads one answer, and sees whether the connection ends with it.
pub(crate) fn read_answer(stream: &mut TcpStream, no_body: bool) -> Answer {
    let mut answer = read_from(stream, &mut Vec::new(), no_body);
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    answer.closed |= matches!(stream.read(&mut [0; 1]), Ok(0));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    answer
}

/// The same under TLS.
pub(crate) fn exchange_tls(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
    request: &str,
) -> Answer {
    let socket = TcpStream::connect_timeout(&address, LIMIT).expect("the proxy accepts");
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let session = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, socket);
    if stream.write_all(request.as_bytes()).is_err() {
        return read_from(&mut std::io::empty(), &mut Vec::new(), false);
    }
    read_from(&mut stream, &mut Vec::new(), false)
}

fn read_from(stream: &mut impl Read, bytes: &mut Vec<u8>, no_body: bool) -> Answer {
    let head_end = loop {
        if let Some(at) = find(bytes, b"\r\n\r\n") {
            break at;
        }
        if fill(stream, bytes) == 0 {
            return Answer {
                status: "closed".into(),
                headers: BTreeMap::new(),
                body: String::from_utf8_lossy(bytes).into_owned(),
                closed: true,
            };
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    if head.starts_with("HTTP/1.1 100") {
        // What follows may be here already.
        let mut rest = bytes[head_end + 4..].to_vec();
        return read_from(stream, &mut rest, no_body);
    }
    let mut lines = head.split("\r\n");
    // The code alone: reason phrases are for show, and the version of an answer to HTTP/1.0 is a matter of taste.
    let status = lines
        .next()
        .unwrap_or_default()
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let slot: &mut String = headers.entry(name.to_ascii_lowercase()).or_default();
        if !slot.is_empty() {
            slot.push_str(" | ");
        }
        slot.push_str(value.trim());
    }
    let mut rest = bytes[head_end + 4..].to_vec();
    let body = if no_body || matches!(status.as_str(), "204" | "304" | "101") {
        Vec::new()
    } else if headers
        .get("transfer-encoding")
        .is_some_and(|value| value == "chunked")
    {
        while find(&rest, b"0\r\n").is_none() || !rest.ends_with(b"\r\n\r\n") {
            if fill(stream, &mut rest) == 0 {
                rest.extend_from_slice(b"<cut off>");
                break;
            }
        }
        dechunk(&rest)
    } else if let Some(length) = headers
        .get("content-length")
        .and_then(|value| value.parse::<usize>().ok())
    {
        while rest.len() < length && fill(stream, &mut rest) > 0 {}
        if rest.len() < length {
            rest.extend_from_slice(b"<cut off>");
        }
        rest
    } else {
        while fill(stream, &mut rest) > 0 {}
        rest
    };
    Answer {
        status,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        closed: false,
    }
}

fn fill(stream: &mut impl Read, bytes: &mut Vec<u8>) -> usize {
    let mut buffer = [0; 8192];
    let read = stream.read(&mut buffer).unwrap_or(0);
    bytes.extend_from_slice(&buffer[..read]);
    read
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
        else {
            break;
        };
        if size == 0 {
            break;
        }
        let start = end + 2;
        let stop = (start + size).min(bytes.len());
        out.extend_from_slice(&bytes[start..stop]);
        bytes = bytes.get(stop + 2..).unwrap_or_default();
    }
    out
}

/// Replaces what differs from run to run: dates, ids, times, ports.
pub(crate) fn comparable(mut answer: Answer) -> Answer {
    for (name, value) in &mut answer.headers {
        match name.as_str() {
            "date" => *value = "<date>".into(),
            "x-request-id" => *value = "<id>".into(),
            // A hash of the two ends of the connection.
            "set-cookie" => *value = value.chars().filter(|c| !c.is_ascii_hexdigit()).collect(),
            "x-envoy-upstream-service-time" => *value = "<ms>".into(),
            _ => *value = mask(value),
        }
    }
    answer.body = answer.body.lines().map(mask).collect::<Vec<_>>().join("\n");
    answer
}

/// UUIDs, local ports and milliseconds in a line.
pub(crate) fn mask(line: &str) -> String {
    let uuid =
        regex::Regex::new(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap();
    let port = regex::Regex::new(r"127\.0\.0\.1:\d+").unwrap();
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").unwrap();
    let line = uuid.replace_all(line, "<id>");
    let line = port.replace_all(&line, "127.0.0.1:<port>");
    time.replace_all(&line, "<time>").into_owned()
}
