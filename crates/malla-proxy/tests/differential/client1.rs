//! A client that sends bytes as a case says, and reads what comes back as HTTP/1 answers.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::case::{Act, Step, bytes};
use crate::counters::{Around, rest};
use crate::socket::Socket;
use crate::transcript::Answer;

/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(250);
/// The same where every answer that was asked for has come whole.
const SETTLED: Duration = Duration::from_millis(80);

/// One connection and what it has brought.
pub(crate) struct Client<'a> {
    socket: Socket,
    bytes: Vec<u8>,
    pub(crate) answers: Vec<Answer>,
    /// Requests by what their answers' bodies depend on: HEAD, CONNECT.
    methods: Vec<String>,
    /// After an upgrade nothing is an answer.
    tunnel: bool,
    closed: bool,
    around: &'a Around<'a>,
    /// Answers that structured requests and `answer` steps have waited for.
    exact: bool,
}

impl<'a> Client<'a> {
    pub(crate) fn new(socket: Socket, around: &'a Around<'a>) -> Self {
        Self {
            socket,
            bytes: Vec::new(),
            answers: Vec::new(),
            methods: Vec::new(),
            tunnel: false,
            closed: false,
            around,
            exact: false,
        }
    }

    /// Takes the steps, then reads what is left; says how the connection ends.
    pub(crate) fn run(mut self, steps: &[Step]) -> (Vec<Answer>, String) {
        let mut finished = false;
        for step in steps {
            match step {
                Step::Bytes(word) if word == "answer" => self.wait_answer(),
                Step::Bytes(word) if word == "end" => {
                    self.read_until(self.around.patience, |_| false)
                }
                Step::Bytes(word) if word == "half-close" => self.socket.finish(),
                Step::Bytes(word) if word == "close" => {
                    self.read_until(Duration::from_millis(1), |_| true);
                    finished = true;
                    break;
                }
                Step::Bytes(word) if word == "reset" => {
                    let answers = std::mem::take(&mut self.answers);
                    self.socket.reset();
                    return (answers, "reset by the client".into());
                }
                Step::Bytes(text) => self.send(&bytes(text)),
                Step::Act(act) => self.act(act),
            }
        }
        if finished {
            return (self.answers, "closed by the client".into());
        }
        self.read_rest();
        let announced = self.answers.last().is_some_and(Answer::announces_close);
        let end = match (announced, self.closed) {
            // When exactly does not matter.
            (true, _) => "closing",
            (false, true) => "closed",
            (false, false) => "open",
        };
        (self.answers, end.into())
    }

    fn act(&mut self, act: &Act) {
        if let Some(pause) = act.pause {
            return self.read_until(pause, |_| false);
        }
        if self.around.wait(act, rest) {
            return;
        }
        if let Some(raw) = &act.raw {
            let repeat = act.repeat.unwrap_or(1);
            let whole: String = (0..repeat)
                .map(|n| raw.replace("{n}", &n.to_string()))
                .collect();
            return self.send(&bytes(&whole));
        }
        for _ in 0..act.repeat.unwrap_or(1) {
            let request = http1(act);
            self.send(&request);
            if !act.open {
                self.exact = true;
                self.wait_answer();
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned();
        if let Some((method, _)) = text.split_once(' ')
            && method.bytes().all(|byte| byte.is_ascii_uppercase())
        {
            self.methods.push(method.to_owned());
        }
        self.exact = false;
        // What cannot be sent is noticed by reading.
        let _ = self.socket.write_all(bytes);
        let _ = self.socket.flush();
    }

    /// Waits for one more final answer.
    fn wait_answer(&mut self) {
        let before = self.finals();
        self.read_until(self.around.patience, |client| client.finals() > before);
        self.exact = true;
    }

    fn finals(&self) -> usize {
        self.answers
            .iter()
            .filter(|answer| answer.is_final())
            .count()
    }

    fn read_rest(&mut self) {
        let deadline = Instant::now() + self.around.patience;
        loop {
            let (before, quiet) = (self.bytes.len(), if self.exact { SETTLED } else { QUIET });
            let count = self.answers.len();
            self.read_until(quiet, |_| false);
            let moved = self.bytes.len() != before || self.answers.len() != count;
            let whole = self.tunnel || self.bytes.is_empty() && self.finals() > 0;
            if self.closed || whole && !moved || Instant::now() > deadline {
                break;
            }
        }
        if !self.bytes.is_empty() {
            let rest = std::mem::take(&mut self.bytes);
            self.answers.push(Answer::rest(&rest, self.closed));
        }
    }

    /// Reads for so long, or until the end, or until `done`.
    fn read_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            self.take_answers();
            if self.closed || done(self) || Instant::now() >= deadline {
                return;
            }
            let mut buffer = [0; 16_384];
            let left = deadline.saturating_duration_since(Instant::now());
            self.socket
                .set_timeout(left.clamp(Duration::from_millis(1), Duration::from_millis(50)));
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(read) => self.bytes.extend_from_slice(&buffer[..read]),
                Err(error) if Socket::is_timeout(&error) => {}
                Err(_) => self.closed = true,
            }
        }
    }

    fn take_answers(&mut self) {
        while !self.tunnel {
            let at = self.finals();
            let method = self.methods.get(at).map_or("GET", String::as_str);
            let Some((answer, used)) = Answer::parse(&self.bytes, method, self.closed) else {
                return;
            };
            self.bytes.drain(..used);
            let connected = method == "CONNECT" && answer.status.starts_with('2');
            self.tunnel = connected || answer.status == "101";
            self.answers.push(answer);
        }
    }
}

/// A request as bytes.
fn http1(act: &Act) -> Vec<u8> {
    let line = match (&act.request, &act.get) {
        (Some(line), _) => line.clone(),
        (None, Some(path)) => format!("GET {path}"),
        (None, None) => panic!("a step without a verb: {act:?}"),
    };
    let authority = act.authority.as_deref().unwrap_or("test.example");
    let mut head = format!("{line} HTTP/1.1\r\nhost: {authority}\r\n");
    for field in &act.headers {
        head.push_str(&format!("{field}\r\n"));
    }
    let mut body = Vec::new();
    if let Some(chunks) = &act.chunks {
        head.push_str("transfer-encoding: chunked\r\n");
        for chunk in chunks {
            let chunk = bytes(chunk);
            body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            body.extend(chunk);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n");
        for field in &act.trailers {
            body.extend(bytes(&format!("{field}\r\n")));
        }
        body.extend(b"\r\n");
    } else if let Some(text) = &act.body {
        body = bytes(text);
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut out = bytes(&head);
    out.extend(body);
    out
}
