//! What scrapes see: every worker's series added up by labels, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use malla_proxy_config::istio_stats::Metric;

use super::SeriesRegistry;
use super::series::{BOUNDS, Histogram};
use crate::peers::Own;

/// One metric and all its series.
#[derive(Debug)]
pub struct Family {
    /// `istio_requests_total` and its like.
    pub name: String,
    pub help: &'static str,
    pub kind: Kind,
    rows: Rows,
}

/// For `# TYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
enum Rows {
    Numbers(BTreeMap<Arc<str>, u64>),
    Histograms(BTreeMap<Arc<str>, ([u64; BOUNDS.len() + 1], u64)>),
}

impl SeriesRegistry {
    /// Every metric that has a series, by name.
    pub fn families(&self, own: &Own) -> Vec<Family> {
        let all = self.all();
        let mut families: Vec<Family> = Metric::ALL
            .into_iter()
            .map(|metric| Family {
                name: format!("istio_{}", metric.name()),
                help: help(metric),
                kind: kind(metric),
                rows: rows(metric, &all),
            })
            .filter(|family| !family.is_empty())
            .collect();
        let one = |name: &str, help, kind, labels: String, value| Family {
            name: name.to_owned(),
            help,
            kind,
            rows: Rows::Numbers(BTreeMap::from([(labels.into(), value)])),
        };
        families.push(one(
            "istio_build",
            "Istio component build info",
            Kind::Gauge,
            format!(
                "component=\"proxy\",tag=\"{}\"",
                own.version.replace(['\\', '"', '\n'], "")
            ),
            1,
        ));
        families.push(one(
            "malla_istio_series",
            "Label sets of istio_ metrics",
            Kind::Gauge,
            String::new(),
            self.sets() as u64,
        ));
        families.push(one(
            "malla_istio_series_overflow_total",
            "Requests and connections counted under overflow=\"true\" for want of room",
            Kind::Counter,
            String::new(),
            self.overflowed(),
        ));
        families.sort_by(|left, right| left.name.cmp(&right.name));
        families
    }
}

fn rows(metric: Metric, all: &[Arc<super::Series>]) -> Rows {
    let labelled = || {
        all.iter()
            .filter_map(|series| Some((series, series.labels(metric)?)))
    };
    if kind(metric) == Kind::Histogram {
        let mut rows = BTreeMap::new();
        for (series, labels) in labelled() {
            let (counts, sum) = series
                .histogram(metric)
                .map(Histogram::read)
                .unwrap_or_default();
            let (all, total): &mut ([u64; BOUNDS.len() + 1], u64) =
                rows.entry(Arc::clone(labels)).or_default();
            for (all, count) in all.iter_mut().zip(counts) {
                *all = all.wrapping_add(count);
            }
            *total = total.wrapping_add(sum);
        }
        return Rows::Histograms(rows);
    }
    let mut rows = BTreeMap::new();
    for (series, labels) in labelled() {
        let total: &mut u64 = rows.entry(Arc::clone(labels)).or_default();
        *total = total.wrapping_add(series.counter(metric).get());
    }
    Rows::Numbers(rows)
}

fn kind(metric: Metric) -> Kind {
    match metric {
        Metric::Duration | Metric::RequestBytes | Metric::ResponseBytes => Kind::Histogram,
        _ => Kind::Counter,
    }
}

fn help(metric: Metric) -> &'static str {
    match metric {
        Metric::Requests => "Requests handled by a proxy of the mesh",
        Metric::Duration => "How long requests took, milliseconds",
        Metric::RequestBytes => "How long requests were, bytes",
        Metric::ResponseBytes => "How long responses were, bytes",
        Metric::RequestMessages => "gRPC messages sent by clients",
        Metric::ResponseMessages => "gRPC messages sent by servers",
        Metric::TcpOpened => "TCP connections opened",
        Metric::TcpClosed => "TCP connections closed",
        Metric::TcpSent => "Bytes sent to clients over TCP connections",
        Metric::TcpReceived => "Bytes received from clients over TCP connections",
    }
}

impl Family {
    fn is_empty(&self) -> bool {
        match &self.rows {
            Rows::Numbers(rows) => rows.is_empty(),
            Rows::Histograms(rows) => rows.is_empty(),
        }
    }

    /// Appends the family in Prometheus' text format.
    pub fn write(&self, out: &mut String) {
        let name = &self.name;
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {}", self.help);
        let _ = writeln!(out, "# TYPE {name} {kind}");
        match &self.rows {
            Rows::Numbers(rows) => {
                for (labels, value) in rows {
                    let _ = writeln!(out, "{name}{{{labels}}} {value}");
                }
            }
            Rows::Histograms(rows) => {
                for (labels, (counts, sum)) in rows {
                    write_histogram(name, labels, counts, *sum, out);
                }
            }
        }
    }
}

fn write_histogram(name: &str, labels: &str, counts: &[u64], sum: u64, out: &mut String) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0u64;
    for (bound, count) in BOUNDS.iter().copied().chain(["+Inf"]).zip(counts) {
        total = total.wrapping_add(*count);
        let _ = writeln!(
            out,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}"
        );
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", thousandths(sum));
    let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
}

/// `1500` as `1.5`.
fn thousandths(value: u64) -> String {
    let (whole, rest) = (value / 1000, value % 1000);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = format!("{rest:03}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}
