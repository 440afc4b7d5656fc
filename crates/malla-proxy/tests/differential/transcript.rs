//! What one proxy made of a case, as text that two proxies must agree on.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::case::{Case, Part};
use crate::hpack::Field;
use crate::upstream::Seen;

/// One answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: String,
    headers: Vec<Field>,
    body: Vec<u8>,
    trailers: Vec<Field>,
    /// What went before it: 100, 103.
    interim: Vec<Vec<Field>>,
    /// HTTP/2: which stream, and how it ended.
    stream: Option<(u32, String)>,
}

impl Answer {
    /// One HTTP/1 answer from the beginning of `bytes` and its length, once it is whole.
    pub(crate) fn parse(bytes: &[u8], method: &str, closed: bool) -> Option<(Self, usize)> {
        let head_end = find(bytes, b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..head_end - 4]).into_owned();
        let mut lines = head.split("\r\n");
        // The code alone: reason phrases are for show, and the version of an answer to HTTP/1.0 a matter of taste.
        let status = lines.next()?.split(' ').nth(1).unwrap_or("?").to_owned();
        let mut answer = Self {
            status,
            headers: lines.map(field).collect(),
            ..Self::default()
        };
        let none = method == "HEAD"
            || answer.status.starts_with('1')
            || matches!(answer.status.as_str(), "204" | "304")
            || method == "CONNECT" && answer.status.starts_with('2');
        let rest = &bytes[head_end..];
        let used = if none {
            0
        } else if answer.header("transfer-encoding") == Some("chunked") {
            match dechunk(rest) {
                Some((body, trailers, used)) => {
                    (answer.body, answer.trailers) = (body, trailers);
                    used
                }
                None if closed => answer.cut_off(rest),
                None => return None,
            }
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap_or(0);
            match rest.get(..length) {
                Some(body) => {
                    answer.body = body.to_vec();
                    length
                }
                None if closed => answer.cut_off(rest),
                None => return None,
            }
        } else if closed {
            answer.body = rest.to_vec();
            rest.len()
        } else {
            return None;
        };
        Some((answer, head_end + used))
    }

    fn cut_off(&mut self, rest: &[u8]) -> usize {
        self.body = rest.to_vec();
        self.body.extend(b"<cut off>");
        rest.len()
    }

    /// What no answer could be made of: the bytes of a tunnel, or of an answer that is not whole.
    pub(crate) fn rest(bytes: &[u8], closed: bool) -> Self {
        Self {
            status: if closed {
                "bytes, then the end"
            } else {
                "bytes"
            }
            .into(),
            body: bytes.to_vec(),
            ..Self::default()
        }
    }

    /// What an HTTP/2 stream brought.
    pub(crate) fn of_stream(id: u32, heads: Vec<Vec<Field>>, body: &[u8], ended: &str) -> Self {
        let mut answer = Self {
            status: "none".into(),
            body: body.to_vec(),
            stream: Some((id, ended.to_owned())),
            ..Self::default()
        };
        for head in heads {
            let status = head.iter().find(|(name, _)| name == ":status");
            match status.map(|(_, value)| value.clone()) {
                Some(status) if status.starts_with('1') => answer.interim.push(head),
                Some(status) => {
                    let fields = head.into_iter().filter(|(name, _)| name != ":status");
                    (answer.status, answer.headers) = (status, fields.collect());
                }
                None => answer.trailers = head,
            }
        }
        answer
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn announces_close(&self) -> bool {
        self.header("connection") == Some("close")
    }

    pub(crate) fn is_final(&self) -> bool {
        !self.status.starts_with('1') || self.status == "101"
    }

    fn show(&self, case: &Case, out: &mut Vec<String>) {
        let has = |part| case.compare.contains(&part);
        let of = match &self.stream {
            Some((id, _)) => format!("stream {id}: "),
            None => String::new(),
        };
        if has(Part::Status) {
            out.push(format!("{of}status {}", self.status));
        }
        if has(Part::Headers) {
            for head in &self.interim {
                out.extend(show_fields("interim ", head, case));
            }
            out.extend(show_fields("", &self.headers, case));
            out.extend(show_fields("trailer ", &self.trailers, case));
        }
        if has(Part::Body) {
            let text: String = if self.body.iter().all(|byte| *byte < 128) {
                String::from_utf8_lossy(&self.body).into_owned()
            } else {
                self.body.escape_ascii().to_string()
            };
            let long = text.len() > 4096;
            if long {
                out.push(format!("| {} bytes", text.len()));
            } else {
                out.extend(text.lines().map(|line| format!("| {line}")));
            }
        }
        if let (true, Some((id, ended))) = (has(Part::End), &self.stream) {
            out.push(format!("stream {id} {ended}"));
        }
    }
}

fn field(line: &str) -> Field {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Body, trailers and length of a chunked body that is whole.
fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, Vec<Field>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let end = at + find(&bytes[at..], b"\r\n")?;
        let size = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
        bytes.get(..at)?;
    }
    let mut trailers = Vec::new();
    loop {
        let end = at + find(&bytes[at..], b"\r\n")?;
        let line = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        at = end + 2;
        if line.is_empty() {
            return Some((body, trailers, at));
        }
        trailers.push(field(&line));
    }
}

fn show_fields(prefix: &str, fields: &[Field], case: &Case) -> Vec<String> {
    let mut lines: Vec<String> = fields
        .iter()
        .filter(|(name, _)| !case.ignore.iter().any(|ignored| ignored == name))
        .map(|(name, value)| match name.as_str() {
            "date" => format!("{prefix}date: <date>"),
            "x-envoy-upstream-service-time" => format!("{prefix}{name}: <ms>"),
            _ => format!("{prefix}{name}: {value}"),
        })
        .collect();
    lines.sort();
    lines
}

/// Everything one proxy made of a case.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) answers: Vec<Answer>,
    pub(crate) end: String,
    pub(crate) seen: Vec<(String, Vec<Seen>)>,
    pub(crate) log: Vec<String>,
    pub(crate) stats: BTreeMap<String, i64>,
}

impl Transcript {
    /// The lines that count for the case. `places` are addresses and what they are called.
    pub(crate) fn lines(&self, case: &Case, places: &[(String, String)]) -> Vec<String> {
        let has = |part| case.compare.contains(&part);
        let mut out = Vec::new();
        for answer in &self.answers {
            answer.show(case, &mut out);
        }
        if has(Part::End) {
            out.push(format!("connection: {}", self.end));
        }
        for (name, seen) in &self.seen {
            for seen in seen {
                if has(Part::Bytes) {
                    let lines = seen.head.lines();
                    out.extend(lines.map(|line| format!("{name} > {}", line.escape_debug())));
                } else if has(Part::Upstream) {
                    let ignored = |line: &&str| {
                        let name = line.split(':').next().unwrap_or_default();
                        case.ignore.iter().any(|ignored| ignored == name)
                    };
                    let lines = seen.text.lines().filter(|line| !ignored(line));
                    out.extend(lines.map(|line| format!("{name} > {line}")));
                }
            }
        }
        if has(Part::Log) {
            out.extend(self.log.iter().map(|line| format!("log: {line}")));
        }
        out.extend(
            self.stats
                .iter()
                .map(|(name, by)| format!("stat {name}: {by:+}")),
        );
        let masks: Vec<Regex> = case
            .mask
            .iter()
            .map(|mask| Regex::new(mask).expect("a mask is an expression"))
            .collect();
        out.iter().map(|line| mask(line, places, &masks)).collect()
    }
}

fn mask(line: &str, places: &[(String, String)], masks: &[Regex]) -> String {
    let mut line = line.to_owned();
    for (address, name) in places {
        line = line.replace(address, name);
    }
    line = crate::wire::mask(&line);
    for mask in masks {
        line = mask.replace_all(&line, "<masked>").into_owned();
    }
    line
}

/// Lines that only one of two texts has, in order: the shortest edit by the longest common subsequence.
pub(crate) fn difference(left: &[String], right: &[String]) -> (Vec<String>, Vec<String>) {
    let mut longest = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for (i, l) in left.iter().enumerate().rev() {
        for (j, r) in right.iter().enumerate().rev() {
            longest[i][j] = if l == r {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let (mut only_left, mut only_right) = (Vec::new(), Vec::new());
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || i < left.len() && longest[i + 1][j] >= longest[i][j + 1] {
            only_left.push(left[i].clone());
            i += 1;
        } else {
            only_right.push(right[j].clone());
            j += 1;
        }
    }
    (only_left, only_right)
}

/// The first cells of the rows of `docs/differences.md`.
pub(crate) fn rows(document: &str) -> BTreeSet<String> {
    let cell = |line: &str| Some(line.strip_prefix("| ")?.split(" | ").next()?.to_owned());
    document.lines().filter_map(cell).collect()
}
