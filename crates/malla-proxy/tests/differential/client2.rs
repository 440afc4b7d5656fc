//! A client that sends HTTP/2 frames as a case says, and reads what comes back stream by stream.

use std::io::Write;
use std::time::Duration;

use crate::case::{Act, Step, bytes};
use crate::counters::{Around, TURN};
use crate::frames::{DATA, END_STREAM, Frame, Inbox, PREFACE, RST_STREAM, SETTINGS, reason};
use crate::socket::Socket;
use crate::transcript::Answer;

/// How long an end of the connection may follow the last stream's.
const SETTLED: Duration = Duration::from_millis(120);

/// Takes the steps; gives the answers by stream and how the connection ends.
pub(crate) fn run(
    mut socket: Socket,
    steps: &[Step],
    around: &Around<'_>,
) -> (Vec<Answer>, String) {
    let mut steps = steps;
    let mut inbox = Inbox::default();
    let bare = matches!(steps.first(), Some(Step::Bytes(word)) if word == "no-preface");
    if bare {
        steps = &steps[1..];
    } else {
        let mut start = PREFACE.to_vec();
        start.extend(Frame::new(SETTINGS, 0, 0, vec![]).write());
        let _ = socket.write_all(&start);
    }
    let mut client = Client {
        next: 1,
        opened: Vec::new(),
        around,
    };
    let mut left = None;
    for step in steps {
        match step {
            Step::Bytes(word) if word == "wait" => client.wait(&mut socket, &mut inbox),
            Step::Bytes(word) if word == "stingy" => inbox.stingy = true,
            Step::Bytes(word) if word == "deaf" => inbox.deaf = true,
            Step::Bytes(word) if word == "listen" => inbox.deaf = false,
            Step::Bytes(word) if word == "end" => {
                inbox.read(&mut socket, around.patience, |_| false)
            }
            Step::Bytes(word) if word == "close" => {
                left = Some("closed by the client");
                break;
            }
            Step::Bytes(text) => {
                let _ = socket.write_all(&bytes(text));
            }
            Step::Act(act) => client.act(act, &mut socket, &mut inbox),
        }
    }
    if left.is_none() {
        client.wait(&mut socket, &mut inbox);
        inbox.read(&mut socket, SETTLED, |_| false);
    }
    let mut end = String::new();
    if let Some((_, code)) = inbox.goaway {
        end.push_str(&format!("goaway {}, ", reason(code)));
    }
    end.push_str(left.unwrap_or(if inbox.closed { "closed" } else { "open" }));
    let answers = inbox.streams.into_iter().map(|(id, stream)| {
        let ended = stream.ended.as_deref().unwrap_or("unfinished");
        Answer::of_stream(id, stream.heads, &stream.body, ended)
    });
    (answers.collect(), end)
}

struct Client<'a> {
    next: u32,
    opened: Vec<u32>,
    around: &'a Around<'a>,
}

impl Client<'_> {
    /// Until every stream that was opened has ended.
    fn wait(&mut self, socket: &mut Socket, inbox: &mut Inbox) {
        let opened = &self.opened;
        inbox.read(socket, self.around.patience, |inbox| {
            let ended = |id: &u32| {
                let stream = inbox.streams.get(id);
                stream.is_some_and(|stream| stream.ended.is_some())
            };
            opened.iter().all(ended)
        });
    }

    fn act(&mut self, act: &Act, socket: &mut Socket, inbox: &mut Inbox) {
        if let Some(pause) = act.pause {
            return inbox.read(socket, pause, |_| false);
        }
        let turn = || inbox.read(socket, TURN, |_| false);
        if self.around.wait(act, turn) {
            return;
        }
        let mut out = Vec::new();
        for n in 0..act.repeat.unwrap_or(1) {
            out.extend(self.frames(act, n));
        }
        // A peer that has gone is noticed by reading.
        for part in out.chunks(64 * 1024) {
            let _ = socket.write_all(part);
            inbox.read(socket, Duration::ZERO, |_| true);
        }
    }

    fn frames(&mut self, act: &Act, n: u32) -> Vec<u8> {
        let last = self.next.saturating_sub(2);
        let stream = act.stream.unwrap_or(last);
        if let Some(raw) = &act.raw {
            return bytes(raw);
        }
        if let Some(settings) = &act.settings {
            let mut payload = Vec::new();
            for (id, value) in settings {
                payload.extend(id.to_be_bytes());
                payload.extend(value.to_be_bytes());
            }
            return Frame::new(SETTINGS, 0, 0, payload).write();
        }
        if let Some(frame) = &act.frame {
            let mut payload = bytes(&frame.payload);
            payload.extend(crate::frames::block(&frame.fields));
            let id = if frame.stream == 0 {
                act.stream.unwrap_or(0)
            } else {
                frame.stream
            };
            return Frame::new(frame.kind, frame.flags, id, payload).write();
        }
        if let Some(data) = &act.data {
            let end = act.end.unwrap_or(false);
            return Frame::data(stream, end, &bytes(data));
        }
        if let (Some(code), Some(_)) = (act.reset, &act.get) {
            let mut out = self.request(act, n);
            let id = self.next - 2;
            self.opened.retain(|opened| *opened != id);
            out.extend(Frame::new(RST_STREAM, 0, id, code.to_be_bytes().to_vec()).write());
            return out;
        }
        if let Some(code) = act.reset {
            self.opened.retain(|id| *id != stream);
            return Frame::new(RST_STREAM, 0, stream, code.to_be_bytes().to_vec()).write();
        }
        if let Some(fields) = &act.fields {
            let id = act.stream.unwrap_or(self.next);
            let end = act.end.unwrap_or(true);
            self.open(id);
            let number = |field: &String| field.replace("{n}", &n.to_string());
            let fields: Vec<String> = fields.iter().map(number).collect();
            return Frame::headers(id, if end { END_STREAM } else { 0 }, &fields);
        }
        if act.request.is_some() || act.get.is_some() {
            return self.request(act, n);
        }
        // Trailers, or the end, of a stream that was left open.
        if act.trailers.is_empty() {
            return Frame::new(DATA, END_STREAM, stream, vec![]).write();
        }
        Frame::headers(stream, END_STREAM, &act.trailers)
    }

    fn open(&mut self, id: u32) {
        if !self.opened.contains(&id) {
            self.opened.push(id);
        }
        self.next = self.next.max(id + 2);
    }

    fn request(&mut self, act: &Act, n: u32) -> Vec<u8> {
        let line = match (&act.request, &act.get) {
            (Some(line), _) => line.clone(),
            (None, path) => format!("GET {}", path.as_deref().unwrap_or("/")),
        };
        let (method, path) = line.split_once(' ').expect("`METHOD path`");
        let authority = act.authority.as_deref().unwrap_or("test.example");
        let mut fields = vec![
            format!(":method: {method}"),
            ":scheme: http".into(),
            format!(":authority: {authority}"),
            format!(":path: {}", path.replace("{n}", &n.to_string())),
        ];
        fields.extend(act.headers.iter().cloned());
        let id = act.stream.unwrap_or(self.next);
        self.open(id);
        let body = match &act.grpc {
            Some(message) => Some(crate::upstream::grpc(message)),
            None => act.body.as_deref().map(bytes),
        };
        let chunks = act.chunks.clone().unwrap_or_default();
        let ends = !act.open && act.trailers.is_empty();
        let bare = body.is_none() && chunks.is_empty();
        let mut out = Frame::headers(id, if bare && ends { END_STREAM } else { 0 }, &fields);
        for (at, chunk) in chunks.iter().enumerate() {
            let last = ends && body.is_none() && at + 1 == chunks.len();
            out.extend(Frame::data(id, last, &bytes(chunk)));
        }
        if let Some(body) = body {
            out.extend(Frame::data(id, ends, &body));
        }
        if !act.trailers.is_empty() {
            out.extend(Frame::headers(id, END_STREAM, &act.trailers));
        }
        out
    }
}
