//! Metrics of several parts as one text: each family described once, whoever has it.
//!
//! The application is somebody else's: it is given a time and a size, may answer in Prometheus' text format or in
//! OpenMetrics, and when it does not, that is counted and the scrape succeeds without it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, Method, header};
use malla_runtime::metrics::{Counter, Family, Registry};

use crate::http::{Call, successful};
use crate::settings::AppMetrics;

/// Prometheus' own timeout by default.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an application's metrics.
const MOST: usize = 16 << 20;
const OPEN_METRICS: &str = "application/openmetrics-text";

/// What the agent counts of scrapes, by Istio's names.
#[derive(Debug)]
pub(super) struct Scrapes {
    pub(super) all: Counter,
    pub(super) failed: Family<Counter>,
}

impl Scrapes {
    pub(super) fn new(registry: &Registry) -> Self {
        let shard = registry.shared();
        Self {
            all: shard.counter("istio_agent_scrapes_total", "The total number of scrapes."),
            failed: shard.counters(
                "istio_agent_scrape_failures_total",
                "The total number of failed scrapes.",
                &["type"],
            ),
        }
    }
}

/// How long a scraper waits, a little less.
pub(super) fn patience(headers: &HeaderMap) -> Duration {
    let said = headers.get("x-prometheus-scrape-timeout-seconds");
    let said = said.and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let said = said.and_then(|seconds| Duration::try_from_secs_f64(seconds * 0.9).ok());
    said.map_or(PATIENCE, |said| {
        said.clamp(Duration::from_millis(100), 2 * PATIENCE)
    })
}

impl AppMetrics {
    /// The application's metrics, in Prometheus' text format.
    pub(super) async fn scrape(&self, pod: IpAddr, patience: Duration) -> Result<String, String> {
        let address = SocketAddr::new(pod, self.port);
        let mut call = Call::new(address, Method::GET, &self.path);
        let accept = "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.5";
        call.headers = vec![("accept", accept)];
        call.past_capture = true;
        call.timeout = patience;
        call.most = MOST;
        let answer = call.send().await?;
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let kind = kind
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or("text/plain");
        let open = kind.starts_with(OPEN_METRICS);
        let plain = kind.starts_with("text/plain");
        let kind = kind.to_owned();
        let body = successful(answer)?;
        if !open && !plain {
            return Err(format!(
                "the answer is {kind} (expected text/plain or {OPEN_METRICS})"
            ));
        }
        let text = String::from_utf8_lossy(&body);
        Ok(if open {
            from_open_metrics(&text)
        } else {
            text.into_owned()
        })
    }
}

/// OpenMetrics as Prometheus' older text format: what that lacks is left out or said otherwise.
fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(description) = line.strip_prefix("# TYPE ") {
            let (name, kind) = description
                .split_once(' ')
                .unwrap_or((description, "unknown"));
            let (name, kind) = match kind.trim() {
                // Samples end in `_total` though the family's name does not.
                "counter" => (format!("{name}_total"), "counter"),
                "info" => (format!("{name}_info"), "gauge"),
                "stateset" => (name.to_owned(), "gauge"),
                "gaugehistogram" | "unknown" => (name.to_owned(), "untyped"),
                kind => (name.to_owned(), kind),
            };
            out.push_str(&format!("# TYPE {name} {kind}\n"));
        } else if line.starts_with('#') {
            // Helps go by the family's name, which may have changed; units and the end have no place.
        } else {
            // Exemplars follow the sample. The timestamp, in seconds there, may go: a scrape has its own.
            out.push_str(sample(line));
            out.push('\n');
        }
    }
    out
}

/// A sample without what follows its value.
fn sample(line: &str) -> &str {
    let name = line.find(['{', ' ']).unwrap_or(line.len());
    let labels = match line.get(name..) {
        Some(rest) if rest.starts_with('{') => name + braces(rest),
        _ => name,
    };
    let rest = line.get(labels..).unwrap_or_default();
    let value = rest.trim_start();
    let end = value.find(' ').unwrap_or(value.len());
    let whole = labels + (rest.len() - value.len()) + end;
    line.get(..whole).unwrap_or(line)
}

/// How far a list of labels goes, braces included; in quotes there may be more of them.
fn braces(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Texts put together.
#[derive(Debug, Default)]
pub(super) struct Merged {
    text: String,
    described: HashSet<String>,
}

impl Merged {
    /// Adds a part; families that an earlier one has described are not described again.
    pub(super) fn add(&mut self, part: &str) {
        let mut new = Vec::new();
        for line in part.lines() {
            if line.trim() == "# EOF" {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            if let (Some("#"), Some("TYPE" | "HELP"), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                if self.described.contains(name) {
                    continue;
                }
                new.push(name.to_owned());
            }
            self.text.push_str(line);
            self.text.push('\n');
        }
        self.described.extend(new);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::{Merged, from_open_metrics, patience, sample};

    #[test]
    fn a_family_is_described_once() {
        let mut merged = Merged::default();
        merged.add("# HELP up Is it\n# TYPE up gauge\nup 1\n");
        merged.add("# HELP up It is\n# TYPE up gauge\nup{app=\"x\"} 2\n# TYPE other counter\nother_total 3\n# EOF");
        let want = "# HELP up Is it\n# TYPE up gauge\nup 1\nup{app=\"x\"} 2\n# TYPE other counter\nother_total 3\n";
        assert_eq!(merged.finish(), want);
    }

    #[test]
    fn open_metrics_become_plain() {
        let open = "# TYPE a counter\n# HELP a Help.\n# UNIT a bytes\na_total{x=\"# }\"} 5 1520879607.789 # {trace_id=\"x\"} 1\n# TYPE b info\nb_info 1\n# EOF\n";
        let want = "# TYPE a_total counter\na_total{x=\"# }\"} 5\n# TYPE b_info gauge\nb_info 1\n";
        assert_eq!(from_open_metrics(open), want);
    }

    #[test]
    fn samples_end_with_their_value() {
        for (line, want) in [
            ("a 1", "a 1"),
            ("a 1 2", "a 1"),
            ("a{x=\"}\"} 1 2", "a{x=\"}\"} 1"),
            ("a{x=\"\\\"} \"} 1 2", "a{x=\"\\\"} \"} 1"),
            ("a{x=\"", "a{x=\""),
            ("a{x=\"y\"} 1 # {t=\"z\"} 3 4", "a{x=\"y\"} 1"),
            ("", ""),
            ("}", "}"),
        ] {
            assert_eq!(sample(line), want);
        }
    }

    #[test]
    fn scrapers_say_how_long_they_wait() {
        let of = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("x-prometheus-scrape-timeout-seconds", text.parse().unwrap());
            patience(&headers).as_millis()
        };
        assert_eq!(of("5"), 4500);
        assert_eq!((of("NaN"), of("-1"), of("1e300")), (10_000, 10_000, 10_000));
        assert_eq!(of("0"), 100);
    }
}
