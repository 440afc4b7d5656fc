//! Istio's default access log, text and JSON, for proxies that only write to standard output.
//!
//! The text form is `EnvoyTextLogFormat` of Istio's `pilot/pkg/model/telemetry_logging.go`; the JSON
//! form has the same fields by name.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::logs::line::{LogLine, Origin};

/// A longer line is not an access log's.
const LONGEST: usize = 64 << 10;

/// Reads one line; `None` when it is something else.
#[must_use]
pub fn parse(text: &str, origin: &Origin) -> Option<LogLine> {
    let text = text.trim();
    if text.len() > LONGEST {
        return None;
    }
    let line = match text.starts_with('{') {
        true => json(&serde_json::from_str(text).ok()?)?,
        false => plain(text)?,
    };
    Some(line.complete(origin, None))
}

fn time(text: &str) -> Option<i64> {
    text.parse::<Timestamp>()
        .ok()
        .map(|time| time.as_millisecond())
}

/// `-` means "nothing".
fn some(text: &str) -> &str {
    if text == "-" { "" } else { text }
}

fn flags(text: &str) -> Vec<String> {
    let flags = some(text).split(',').filter(|flag| !flag.is_empty());
    flags.map(str::to_owned).collect()
}

fn plain(text: &str) -> Option<LogLine> {
    let (start, rest) = text.strip_prefix('[')?.split_once("] ")?;
    let words = words(rest)?;
    let word = |at: usize| words.get(at).copied().map(some).unwrap_or_default();
    if words.len() < 21 {
        return None;
    }
    // The path may contain blanks; the method and the protocol do not.
    let request = words.first().copied().unwrap_or_default();
    let (method, request) = request.split_once(' ').unwrap_or(("", request));
    let (path, protocol) = request.rsplit_once(' ').unwrap_or((request, ""));
    let http = !some(method).is_empty();
    Some(LogLine {
        time: time(start)?,
        method: some(method).to_owned(),
        path: some(path).to_owned(),
        protocol: if http {
            some(protocol).to_owned()
        } else {
            "TCP".to_owned()
        },
        code: word(1).parse().ok()?,
        flags: flags(word(2)),
        details: word(3).to_owned(),
        failure: word(5).to_owned(),
        bytes_received: word(6).parse().ok()?,
        bytes_sent: word(7).parse().ok()?,
        duration_ms: word(8).parse().ok()?,
        user_agent: word(11).to_owned(),
        request_id: word(12).to_owned(),
        authority: word(13).to_owned(),
        upstream_host: word(14).to_owned(),
        upstream_cluster: word(15).to_owned(),
        downstream: word(18).to_owned(),
        route: word(20).to_owned(),
        ..LogLine::default()
    })
}

/// Splits at blanks, except within quotes.
fn words(text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted
                    .find("\" ")
                    .or_else(|| quoted.strip_suffix('"').map(str::len))?;
                (quoted.get(..end)?, quoted.get(end + 1..)?)
            }
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                (rest.get(..end)?, rest.get(end..)?)
            }
        };
        found.push(word);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    Some(found)
}

fn json(fields: &Map<String, Value>) -> Option<LogLine> {
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => some(text).to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
    let method = text("method");
    let protocol = match method.is_empty() {
        true => "TCP".to_owned(),
        false => text("protocol"),
    };
    Some(LogLine {
        time: time(&text("start_time"))?,
        method,
        protocol,
        path: text("path"),
        code: u32::try_from(number("response_code")).ok()?,
        flags: flags(&text("response_flags")),
        details: text("response_code_details"),
        failure: text("upstream_transport_failure_reason"),
        bytes_received: number("bytes_received"),
        bytes_sent: number("bytes_sent"),
        duration_ms: text("duration").parse().unwrap_or_default(),
        user_agent: text("user_agent"),
        request_id: text("request_id"),
        authority: text("authority"),
        upstream_host: text("upstream_host"),
        upstream_cluster: text("upstream_cluster"),
        downstream: text("downstream_remote_address"),
        route: text("route_name"),
        ..LogLine::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            pod: "web-1".to_owned(),
            namespace: "base".to_owned(),
            workload: "web".to_owned(),
            gateway: false,
        }
    }

    const HTTP: &str = r#"[2026-01-02T03:04:05.678Z] "GET /a b?c=d HTTP/1.1" 503 UO,URX overflow - "-" 5 81 12 - "-" "curl/8 (x)" "id-1" "db:80" "10.0.0.1:80" outbound|80|v1|db.base.svc.cluster.local 10.0.0.2:1 10.9.0.1:80 10.0.0.2:2 - default
"#;
    const TCP: &str = r#"[2026-01-02T03:04:05.678Z] "- - -" 0 - - - "-" 10 20 300 - "-" "-" "-" "-" "10.0.0.1:9" inbound|9|| 127.0.0.6:1 10.0.0.3:9 10.0.0.4:5 outbound_.9_._.db.base.svc.cluster.local -"#;

    #[test]
    fn the_default_text_is_read() {
        let line = parse(HTTP, &origin()).unwrap();
        assert_eq!(line.time, 1_767_323_045_678);
        assert_eq!(
            (&*line.method, &*line.path, &*line.protocol),
            ("GET", "/a b?c=d", "HTTP/1.1")
        );
        assert_eq!(
            (line.code, line.flags.join("+")),
            (503, "UO+URX".to_owned())
        );
        assert_eq!(
            (line.bytes_received, line.bytes_sent, line.duration_ms),
            (5, 81, 12.0)
        );
        assert_eq!(
            (&*line.user_agent, &*line.request_id),
            ("curl/8 (x)", "id-1")
        );
        assert_eq!((&*line.reporter, &*line.destination), ("source", "db.base"));
        assert_eq!((&*line.route, &*line.downstream), ("default", "10.0.0.2:2"));
        let tcp = parse(TCP, &origin()).unwrap();
        assert_eq!(
            (&*tcp.protocol, &*tcp.reporter, tcp.bytes_sent),
            ("TCP", "destination", 20)
        );
    }

    #[test]
    fn the_json_form_is_read() {
        let text = r#"{"start_time":"2026-01-02T03:04:05.678Z","method":"POST","path":"/x","protocol":"HTTP/2","response_code":200,"response_flags":"-","bytes_sent":3,"bytes_received":"4","duration":7,"upstream_cluster":"inbound|80||","authority":"web","request_id":null}"#;
        let line = parse(text, &origin()).unwrap();
        assert_eq!(
            (line.code, line.bytes_sent, line.bytes_received),
            (200, 3, 4)
        );
        assert!(line.flags.is_empty() && line.reporter == "destination");
    }

    #[test]
    fn other_lines_are_not_taken() {
        for text in [
            "",
            "hello",
            "[2026] \"a\"",
            "{}",
            "{\"start_time\":3}",
            "[x] \"GET / HTTP/1.1\" 200",
        ] {
            assert_eq!(parse(text, &origin()), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(\\[2026-01-02T03:04:05Z\\] )?[\"a -\\[\\]{}:,0-9]{0,80}|\\PC*") {
            let _line = parse(&text, &origin());
        }
    }
}
