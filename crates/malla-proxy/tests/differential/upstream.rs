//! An upstream that does what a case says, request by request, over HTTP/1 or HTTP/2 as the connection begins, and
//! remembers what it saw. Without a script it does what the path says (`backend.rs`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backend::{self, Counters, Request};
use crate::case::{Action, Ending, bytes};
use crate::decoded;
use crate::frames::{END_STREAM, Frame, Inbox, PREFACE, RST_STREAM, SETTINGS};
use crate::socket::Socket;

/// One upstream of one proxy; serves until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    script: Mutex<(Vec<Action>, usize)>,
    seen: Mutex<Vec<Seen>>,
    live: Mutex<Vec<TcpStream>>,
    counters: Counters,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) text: String,
    /// The head's bytes.
    pub(crate) head: String,
}

impl Upstream {
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Self {
            name: name.to_owned(),
            port: listener.local_addr().unwrap().port(),
            state: Arc::default(),
        };
        let state = Arc::clone(&upstream.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                state.live.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    serve(&stream, &state);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        upstream
    }

    /// Begins a case: what it is to do, nothing seen, no connection left from the one before.
    pub(crate) fn begin(&self, script: &[Action]) {
        *self.state.script.lock().unwrap() = (script.to_vec(), 0);
        self.state.counters.lock().unwrap().clear();
        for stream in self.state.live.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Write);
            // The proxy has noticed once it closes, too.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let deadline = Instant::now() + Duration::from_millis(500);
            let mut buffer = [0; 4096];
            while Instant::now() < deadline {
                match (&stream).read(&mut buffer) {
                    Ok(0) => break,
                    Err(error) if !Socket::is_timeout(&error) => break,
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.state.seen.lock().unwrap().clear();
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl State {
    /// The next action; the last one is repeated.
    fn next(&self) -> Option<Action> {
        let mut script = self.script.lock().unwrap();
        let (actions, at) = &mut *script;
        let action = actions.get((*at).min(actions.len().saturating_sub(1)));
        *at += 1;
        action.cloned()
    }

    fn note(&self, request: &Request) {
        let decoded = decoded::message(&request.line, &request.body);
        let mut text = match decoded {
            Some(message) => format!("{}\n{message}", request.line),
            None => backend::echo(request),
        };
        for (name, value) in &request.trailers {
            text.push_str(&format!("trailer {name}: {value}\n"));
        }
        if request.partial {
            text.push_str("<cut off>\n");
        }
        let head = request.head.clone();
        self.seen.lock().unwrap().push(Seen { text, head });
    }
}

fn serve(stream: &TcpStream, state: &State) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = Vec::new();
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let Ok([byte, ..]) = reader.fill_buf() else {
            return;
        };
        first.push(*byte);
        reader.consume(1);
    }
    if first == PREFACE {
        let rest = reader.buffer().to_vec();
        return serve_http2(stream, rest, state);
    }
    let mut reader = std::io::Cursor::new(first).chain(reader);
    while let Some(mut request) = backend::read_head(&mut reader) {
        let action = state.next();
        if action.as_ref().is_none_or(|action| !action.early) {
            backend::read_body(&mut reader, &mut request);
        }
        state.note(&request);
        let goes_on = match action {
            Some(action) => answer(&request, &action, stream, &mut reader),
            None if request.partial => false,
            None => backend::by_path(&request, stream, &state.counters),
        };
        if !goes_on {
            return;
        }
    }
}

fn answer(
    request: &Request,
    action: &Action,
    mut stream: &TcpStream,
    reader: &mut impl BufRead,
) -> bool {
    wait(action.after);
    let (head, rest) = match &action.raw {
        Some(raw) => (
            bytes(raw),
            bytes(action.then.as_deref().unwrap_or_default()),
        ),
        None => http1(request, action),
    };
    let mut sent = stream.write_all(&head);
    wait(action.between);
    sent = sent.and_then(|()| stream.write_all(&rest));
    if action.tunnel {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            let Ok(()) = stream.write_all(&buffer[..read].to_ascii_uppercase()) else {
                break;
            };
        }
        return false;
    }
    match action.end {
        None => sent.is_ok(),
        Some(Ending::Close) => false,
        Some(Ending::Reset) => {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            false
        }
    }
}

fn wait(time: Option<Duration>) {
    if let Some(time) = time {
        std::thread::sleep(time);
    }
}

fn http1(request: &Request, action: &Action) -> (Vec<u8>, Vec<u8>) {
    let status = action.status.unwrap_or(200);
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for field in &action.headers {
        head.push_str(&format!("{field}\r\n"));
    }
    let mut rest = Vec::new();
    if let Some(chunks) = &action.chunks {
        head.push_str("transfer-encoding: chunked\r\n");
        for chunk in chunks {
            let chunk = bytes(chunk);
            rest.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            rest.extend(chunk);
            rest.extend(b"\r\n");
        }
        rest.extend(b"0\r\n");
        for field in &action.trailers {
            rest.extend(format!("{field}\r\n").into_bytes());
        }
        rest.extend(b"\r\n");
    } else {
        rest = bytes(action.body.as_deref().unwrap_or_default());
        let named = |name: &str| {
            let fields = action.headers.iter();
            fields
                .filter_map(|field| field.split_once(':'))
                .any(|(own, _)| own.eq_ignore_ascii_case(name))
        };
        if !named("content-length") && !named("transfer-encoding") && !matches!(status, 204 | 304) {
            head.push_str(&format!("content-length: {}\r\n", rest.len()));
        }
        if request.line.starts_with("HEAD ") {
            rest.clear();
        }
    }
    head.push_str("\r\n");
    (bytes(&head), rest)
}

fn serve_http2(stream: &TcpStream, read: Vec<u8>, state: &State) {
    let mut socket = Socket::Plain(stream.try_clone().unwrap());
    let mut inbox = Inbox::behind(read);
    let mut served = Vec::new();
    let _ = socket.write_all(&Frame::new(SETTINGS, 0, 0, vec![]).write());
    loop {
        let mut ready = None;
        inbox.read(&mut socket, Duration::from_secs(60), |inbox| {
            ready = inbox
                .streams
                .iter()
                .find(|(id, stream)| !served.contains(*id) && is_ready(stream, state))
                .map(|(id, _)| *id);
            ready.is_some()
        });
        let Some(id) = ready else { return };
        served.push(id);
        let request = &inbox.streams[&id];
        if request.ended.as_deref().is_some_and(|end| end != "end") && request.heads.is_empty() {
            continue;
        }
        let request = as_request(request);
        state.note(&request);
        let action = state.next().unwrap_or_else(|| http2_by_path(&request));
        wait(action.after);
        let (head, rest) = http2(id, &request, &action);
        let _ = socket.write_all(&head);
        wait(action.between);
        let _ = socket.write_all(&rest);
        if action.end.is_some() {
            return;
        }
    }
}

fn is_ready(stream: &crate::frames::Stream, state: &State) -> bool {
    let script = state.script.lock().unwrap();
    let (actions, at) = &*script;
    let next = actions.get((*at).min(actions.len().saturating_sub(1)));
    let early = next.is_some_and(|action| action.early);
    stream.ended.is_some() || early && !stream.heads.is_empty()
}

/// The request as HTTP/1 would say it, so that records look alike.
fn as_request(stream: &crate::frames::Stream) -> Request {
    let pseudo = |name: &str| {
        let head = stream.heads.first();
        let mut fields = head.into_iter().flatten();
        let found = fields.find(|(own, _)| own == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let head = stream.heads.first().cloned().unwrap_or_default();
    let mut lines: Vec<String> = head
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    lines.sort();
    Request {
        line: format!("{} {} HTTP/2", pseudo(":method"), pseudo(":path")),
        head: lines.concat(),
        headers: head,
        body: stream.body.clone(),
        trailers: stream.heads.get(1).cloned().unwrap_or_default(),
        partial: stream.ended.as_deref().is_some_and(|end| end != "end"),
    }
}

fn http2(id: u32, request: &Request, action: &Action) -> (Vec<u8>, Vec<u8>) {
    if let Some(raw) = &action.raw {
        let then = bytes(action.then.as_deref().unwrap_or_default());
        return (bytes(raw), then);
    }
    let reset = |code: u32| Frame::new(RST_STREAM, 0, id, code.to_be_bytes().to_vec()).write();
    let body = match &action.grpc {
        Some(message) => grpc(message),
        None => bytes(action.body.as_deref().unwrap_or_default()),
    };
    let mut trailers = action.trailers.clone();
    let mut fields = vec![format!(":status: {}", action.status.unwrap_or(200))];
    if action.grpc.is_some() {
        fields.push("content-type: application/grpc".into());
        if trailers.is_empty() {
            trailers.push("grpc-status: 0".into());
        }
    }
    fields.extend(action.headers.iter().cloned());
    if action.status.is_none() && action.reset.is_some() && body.is_empty() {
        return (reset(action.reset.unwrap_or_default()), vec![]);
    }
    let no_body = body.is_empty() && action.chunks.is_none();
    let bare = no_body || request.line.starts_with("HEAD ");
    let ends = bare && trailers.is_empty() && action.reset.is_none();
    let head = Frame::headers(id, if ends { END_STREAM } else { 0 }, &fields);
    let mut rest = Vec::new();
    if !bare {
        let last = trailers.is_empty() && action.reset.is_none();
        let chunks = action.chunks.clone().unwrap_or_default();
        for chunk in &chunks {
            rest.extend(Frame::data(id, false, &bytes(chunk)));
        }
        rest.extend(Frame::data(id, last, &body));
    }
    if let Some(code) = action.reset {
        rest.extend(reset(code));
    } else if !trailers.is_empty() {
        rest.extend(Frame::headers(id, END_STREAM, &trailers));
    }
    (head, rest)
}

/// A message by its `@type`, with the five bytes before it.
pub(crate) fn grpc(message: &serde_json::Value) -> Vec<u8> {
    let any = malla_xds_proto::json::any_from_value(message.clone()).expect("a known message");
    let length = u32::try_from(any.value.len()).unwrap();
    let mut out = vec![0];
    out.extend(length.to_be_bytes());
    out.extend(any.value);
    out
}

fn http2_by_path(request: &Request) -> Action {
    let path = request.line.split(' ').nth(1).unwrap_or_default();
    let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    match path.split('?').next().unwrap_or_default() {
        "/grpc" => Action {
            headers: own(&["content-type: application/grpc"]),
            body: Some("message".into()),
            trailers: own(&["grpc-status: 0", "x-more: 1"]),
            ..Action::default()
        },
        "/grpc-error" => Action {
            headers: own(&[
                "content-type: application/grpc",
                "grpc-status: 5",
                "grpc-message: none such",
            ]),
            ..Action::default()
        },
        "/reset" => Action {
            reset: Some(2),
            ..Action::default()
        },
        "/reset-later" => Action {
            status: Some(200),
            body: Some("some".into()),
            reset: Some(2),
            ..Action::default()
        },
        _ => Action {
            headers: own(&["content-type: text/plain"]),
            body: Some(backend::echo(request)),
            ..Action::default()
        },
    }
}
