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
    let counters: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counters = Arc::clone(&counters);
            std::thread::spawn(move || while serve(&stream, &counters) {});
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

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// One request; false ends the connection.
fn serve(mut stream: &TcpStream, counters: &Mutex<HashMap<String, u32>>) -> bool {
    let Some(request) = read(stream) else {
        return false;
    };
    let target = request.line.split(' ').nth(1).unwrap_or("/").to_owned();
    if header(&request, "host").contains("-shadow") {
        MIRRORED
            .lock()
            .unwrap()
            .push((header(&request, "x-proxy"), echo(&request)));
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
            let key = format!("{}{}", target, header(&request, "x-proxy"));
            let mut counters = counters.lock().unwrap();
            let count = counters.entry(key).or_insert(0);
            *count += 1;
            if *count <= fails {
                if code == "reset" {
                    return false;
                }
                format!("HTTP/1.1 {code} Fails\r\ncontent-length: 5\r\n\r\nfails")
            } else {
                let body = format!("attempt {count} {}", header(&request, "x-envoy-attempt-count"));
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
            let body = echo(&request);
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}", body.len())
        }
    };
    let answer = if request.line.starts_with("HEAD ") {
        answer.split("\r\n\r\n").next().unwrap_or("").to_owned() + "\r\n\r\n"
    } else {
        answer
    };
    stream.write_all(answer.as_bytes()).is_ok() && !header(&request, "connection").contains("close")
}

fn header(request: &Request, name: &str) -> String {
    let found = request
        .headers
        .iter()
        .find(|(header, _)| header.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// What came, headers sorted.
fn echo(request: &Request) -> String {
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

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok().filter(|read| *read > 0)?;
        let field = field.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':')?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let request = Request {
        line: line.trim_end().to_owned(),
        headers,
        body: Vec::new(),
    };
    let length = header(&request, "content-length").parse().unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if header(&request, "transfer-encoding") == "chunked" {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Some(Request { body, ..request })
}
