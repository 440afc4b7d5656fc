//! An HTTP/1 server that does what the path says, byte by byte.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Starts the server; it lives as long as the process.
pub(crate) fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counters = Arc::<Counters>::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counters = Arc::clone(&counters);
            std::thread::spawn(move || {
                while let Some(request) = read(&stream) {
                    if !by_path(&request, &stream, &counters) {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// Mirrored requests as they came, by the proxy that sent them.
static MIRRORED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// The first mirrored request of a proxy to a path, once there is one.
pub(crate) fn mirrored(proxy: &str, path: &str) -> Option<String> {
    let seen = MIRRORED.lock().unwrap();
    let found = seen
        .iter()
        .find(|(from, text)| from == proxy && text.contains(path));
    found.map(|(_, text)| text.clone())
}

/// How often each failing path was asked for.
pub(crate) type Counters = Mutex<HashMap<String, u32>>;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// The head's bytes.
    pub(crate) head: String,
    /// The body broke off.
    pub(crate) partial: bool,
}

/// Answers as the path says; false ends the connection.
pub(crate) fn by_path(request: &Request, mut stream: &TcpStream, counters: &Counters) -> bool {
    let target = request.line.split(' ').nth(1).unwrap_or("/").to_owned();
    if header(request, "host").contains("-shadow") {
        MIRRORED
            .lock()
            .unwrap()
            .push((header(request, "x-proxy"), echo(request)));
    }
    let path = target.split('?').next().unwrap_or("/").to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let answer = match parts.next().unwrap_or("") {
        "status" => {
            let code = parts.next().unwrap_or("200");
            let no_body = matches!(code, "204" | "304");
            let body = if no_body { String::new() } else { format!("status {code}\n") };
            let length = if no_body { String::new() } else { format!("content-length: {}\r\n", body.len()) };
            format!("HTTP/1.1 {code} Whatever\r\n{length}x-backend: 1\r\n\r\n{body}")
        }
        "chunked" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".into(),
        "until-close" => {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nx-backend: 1\r\n\r\nuntil the end");
            return false;
        }
        "reset" => return false,
        "half" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all");
            return false;
        }
        "slow" => {
            let millis = parts.next().and_then(|text| text.parse().ok()).unwrap_or(100);
            std::thread::sleep(Duration::from_millis(millis));
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nslow\n".into()
        }
        "stall" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
            std::thread::sleep(Duration::from_millis(1500));
            return false;
        }
        "flaky" => {
            // Fails so many times for each key, with this status.
            let code = parts.next().unwrap_or("503").to_owned();
            let fails: u32 = parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
            let key = format!("{}{}", target, header(request, "x-proxy"));
            let mut counters = counters.lock().unwrap();
            let count = counters.entry(key).or_insert(0);
            *count += 1;
            if *count <= fails {
                if code == "reset" {
                    return false;
                }
                format!("HTTP/1.1 {code} Fails\r\ncontent-length: 5\r\n\r\nfails")
            } else {
                let body = format!("attempt {count} {}", header(request, "x-envoy-attempt-count"));
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
        }
        "hop" => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\nproxy-connection: keep-alive\r\nserver: mine\r\nx-stay: 1\r\n\r\nok".into(),
        "upgrade" => {
            let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            let mut buffer = [0; 1024];
            while let Ok(read) = stream.read(&mut buffer) {
                if read == 0 || stream.write_all(&buffer[..read].to_ascii_uppercase()).is_err() {
                    break;
                }
            }
            return false;
        }
        "garbage" => {
            let _ = stream.write_all(b"this is not HTTP\r\n\r\n");
            return false;
        }
        _ => {
            let body = echo(request);
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}", body.len())
        }
    };
    let answer = if request.line.starts_with("HEAD ") {
        answer.split("\r\n\r\n").next().unwrap_or("").to_owned() + "\r\n\r\n"
    } else {
        answer
    };
    stream.write_all(answer.as_bytes()).is_ok() && !header(request, "connection").contains("close")
}

pub(crate) fn header(request: &Request, name: &str) -> String {
    let found = request
        .headers
        .iter()
        .find(|(header, _)| header.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// What came, headers sorted.
pub(crate) fn echo(request: &Request) -> String {
    let mut headers: Vec<String> = request
        .headers
        .iter()
        .map(|(name, value)| format!("{}: {value}\n", name.to_ascii_lowercase()))
        .collect();
    headers.sort();
    format!(
        "{}\n{}body: {}\n",
        request.line,
        headers.concat(),
        String::from_utf8_lossy(&request.body)
    )
}

pub(crate) fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut request = read_head(&mut reader)?;
    read_body(&mut reader, &mut request);
    (!request.partial).then_some(request)
}

/// The request line and the fields; `None` at the connection's end.
pub(crate) fn read_head(reader: &mut impl BufRead) -> Option<Request> {
    let mut request = Request::default();
    request.line = read_line(reader, &mut request.head)?;
    request.headers = read_fields(reader, &mut request.head)?;
    Some(request)
}

fn read_line(reader: &mut impl BufRead, seen: &mut String) -> Option<String> {
    let mut line = Vec::new();
    let read = reader.read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    seen.push_str(&line);
    (read > 0).then(|| line.trim_end().to_owned())
}

fn read_fields(reader: &mut impl BufRead, seen: &mut String) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let field = read_line(reader, seen)?;
        if field.is_empty() {
            return Some(fields);
        }
        let (name, value) = field.split_once(':').unwrap_or((&field, "<no colon>"));
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// The body by the framing the head tells.
pub(crate) fn read_body(reader: &mut impl BufRead, request: &mut Request) {
    let length = header(request, "content-length").parse().unwrap_or(0);
    let chunked = header(request, "transfer-encoding").eq_ignore_ascii_case("chunked");
    let whole = if chunked {
        read_chunks(reader, request).is_some()
    } else {
        read_exactly(reader, length, &mut request.body)
    };
    request.partial = !whole;
}

fn read_exactly(reader: &mut impl BufRead, length: u64, into: &mut Vec<u8>) -> bool {
    reader
        .by_ref()
        .take(length)
        .read_to_end(into)
        .is_ok_and(|read| read as u64 == length)
}

fn read_chunks(reader: &mut impl BufRead, request: &mut Request) -> Option<()> {
    let mut seen = String::new();
    loop {
        let size = read_line(reader, &mut seen)?;
        let size = size.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            request.trailers = read_fields(reader, &mut seen)?;
            return Some(());
        }
        if !read_exactly(reader, size, &mut request.body) {
            return None;
        }
        read_line(reader, &mut seen)?;
    }
}
