//! The collector's own numbers, stored like everybody else's: what was taken, dropped, cut, lost.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use tokio::time::{MissedTickBehavior, interval};

use crate::records::{Family, IntakeStats};
use crate::scrape::target::{Fetch, Target, TargetState};
use crate::telemetry::Telemetry;

/// The `job` of these series.
const JOB: &str = "malla-telemetry";

struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str, values: &[(&str, u64)]) {
        let out = &mut self.0;
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
        for (labels, value) in values {
            writeln!(out, "{name}{labels} {value}").ok();
        }
    }
}

impl Telemetry {
    /// The collector's own metrics, in Prometheus' text format.
    #[must_use]
    pub fn exposition(&self) -> String {
        let mut out = Exposition(String::new());
        self.metrics_exposition(&mut out);
        self.scrape_exposition(&mut out);
        self.records_exposition(&mut out);
        out.0
    }

    fn metrics_exposition(&self, out: &mut Exposition) {
        let s = self.store.stats();
        out.family(
            "malla_telemetry_series",
            "gauge",
            "Series alive.",
            &[("", s.series)],
        );
        out.family(
            "malla_telemetry_samples_appended_total",
            "counter",
            "Samples stored.",
            &[("", s.appended)],
        );
        out.family(
            "malla_telemetry_samples_dropped_total",
            "counter",
            "Samples not stored, by reason.",
            &[
                ("{reason=\"duplicate\"}", s.duplicate),
                ("{reason=\"out_of_order\"}", s.out_of_order),
                ("{reason=\"too_old\"}", s.too_old),
                ("{reason=\"too_new\"}", s.too_new),
                ("{reason=\"series_limit\"}", s.over_limit),
                ("{reason=\"clock_jump\"}", s.clock_dropped),
            ],
        );
        out.family(
            "malla_telemetry_samples_unlogged_total",
            "counter",
            "Samples kept in memory because the log could not be written.",
            &[("", s.unwritten)],
        );
        out.family(
            "malla_telemetry_samples_lost_total",
            "counter",
            "Samples given up because blocks could not be written for long.",
            &[("", s.lost)],
        );
        out.family(
            "malla_telemetry_damaged_total",
            "counter",
            "Blocks or ends of logs that could not be read.",
            &[("", s.corrupt)],
        );
        out.family(
            "malla_telemetry_block_failures_total",
            "counter",
            "Blocks that could not be written (each is tried again).",
            &[("", s.flush_failures)],
        );
        out.family(
            "malla_telemetry_metrics_bytes",
            "gauge",
            "Size of the metric store.",
            &[
                ("{part=\"head\"}", s.head_bytes),
                ("{part=\"log\"}", s.wal_bytes),
                ("{part=\"blocks\"}", s.block_bytes),
            ],
        );
    }

    fn scrape_exposition(&self, out: &mut Exposition) {
        let s = self.scraper.stats();
        out.family(
            "malla_telemetry_targets",
            "gauge",
            "Targets by health.",
            &[
                ("{health=\"up\"}", s.up),
                ("{health=\"down\"}", s.targets.saturating_sub(s.up)),
            ],
        );
        out.family(
            "malla_telemetry_scrapes_total",
            "counter",
            "Scrapes by result.",
            &[
                ("{result=\"ok\"}", s.scrapes.saturating_sub(s.failed)),
                ("{result=\"failed\"}", s.failed),
            ],
        );
    }

    fn records_exposition(&self, out: &mut Exposition) {
        let (spans, logs) = (self.span_intake.stats(), self.log_intake.stats());
        let family = |out: &mut Exposition, name, help, pick: fn(&IntakeStats) -> u64| {
            let values = [
                ("{kind=\"span\"}", pick(&spans)),
                ("{kind=\"log\"}", pick(&logs)),
            ];
            out.family(name, "counter", help, &values);
        };
        out.family(
            "malla_telemetry_entries_uncounted_total",
            "counter",
            "Access log entries not counted in derived metrics because there are too many label sets.",
            &[("", self.deriver.refused())],
        );
        family(
            out,
            "malla_telemetry_records_received_total",
            "Records queued.",
            |s| s.accepted,
        );
        family(
            out,
            "malla_telemetry_records_written_total",
            "Records stored.",
            |s| s.written,
        );
        family(
            out,
            "malla_telemetry_records_dropped_total",
            "Records refused by a full queue.",
            |s| s.dropped,
        );
        family(
            out,
            "malla_telemetry_records_failed_total",
            "Records lost because they could not be written.",
            |s| s.failed,
        );
        let (invalid, cut) = self.span_intake.flaws();
        out.family(
            "malla_telemetry_spans_invalid_total",
            "counter",
            "Spans refused for want of ids.",
            &[("", invalid)],
        );
        out.family(
            "malla_telemetry_span_fields_cut_total",
            "counter",
            "Fields of spans that were cut or left out.",
            &[("", cut)],
        );
        out.family(
            "malla_telemetry_tail_missed_total",
            "counter",
            "Log lines that slow followers did not see.",
            &[("", self.log_intake.missed())],
        );
        let (spans, logs) = (
            self.records.stats(Family::Spans),
            self.records.stats(Family::Logs),
        );
        out.family(
            "malla_telemetry_records_bytes",
            "gauge",
            "Size of the stores of records, without the journal.",
            &[
                ("{kind=\"span\"}", spans.bytes),
                ("{kind=\"log\"}", logs.bytes),
            ],
        );
        out.family(
            "malla_telemetry_buckets",
            "gauge",
            "Buckets of records.",
            &[
                ("{kind=\"span\"}", spans.buckets),
                ("{kind=\"log\"}", logs.buckets),
            ],
        );
        let (reopened, expired) = self.records.events();
        out.family(
            "malla_telemetry_records_reopened_total",
            "counter",
            "Times the store of records was opened again after an error.",
            &[("", reopened)],
        );
        out.family(
            "malla_telemetry_buckets_expired_total",
            "counter",
            "Buckets of records deleted by age or size.",
            &[("", expired)],
        );
        out.family(
            "malla_telemetry_log_streams",
            "gauge",
            "Open access log streams.",
            &[("", self.log_streams.load(Ordering::Relaxed))],
        );
    }

    /// Stores the exposition, and the metrics derived from access logs, as often as targets are scraped.
    pub(super) async fn report_self(&self) {
        let target = Target {
            url: format!("http://{JOB}/"),
            labels: [("job".to_owned(), JOB.to_owned())].into(),
            gateway: false,
        };
        let mut state = TargetState::new(&target, usize::MAX);
        let mut ticks = interval(self.scrape.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let at = self.clock.now();
            let body = self.exposition();
            let fetch = Fetch {
                at,
                seconds: 0.0,
                body: Ok(&body),
            };
            let mut scraped = state.take(fetch, self.scraper.metadata());
            let (store, deriver) = (self.store.clone(), self.deriver.clone());
            let stored = tokio::task::spawn_blocking(move || {
                store.append(at, &mut scraped.rows);
                deriver.report(at, |rows| {
                    store.append(at, rows);
                });
                scraped
            });
            match stored.await {
                Ok(scraped) => state.remember(&scraped),
                Err(_) => return,
            }
        }
    }
}
