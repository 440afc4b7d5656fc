//! Merging the shards' readings and writing them in Prometheus' text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::value::Reading;
use super::{Description, Kind, Sample};

/// All series, by metric name and label text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Merged {
    metrics: BTreeMap<Arc<str>, (Description, Series)>,
}

/// Readings by label text.
type Series = BTreeMap<Box<str>, Reading>;

impl Merged {
    pub(crate) fn add(&mut self, description: &Description, labels: &str, reading: Reading) {
        let (_, series) = self
            .metrics
            .entry(description.name.clone())
            .or_insert_with(|| (description.clone(), Series::new()));
        match series.get_mut(labels) {
            Some(known) => known.add(reading),
            None => {
                series.insert(labels.into(), reading);
            }
        }
    }

    pub(crate) fn add_sample(&mut self, sample: Sample) {
        let mut labels = String::new();
        let pairs = sample
            .labels
            .iter()
            .map(|(name, value)| (&**name, &**value));
        push_labels(&mut labels, pairs);
        let (kind, reading) = match sample.kind {
            Kind::Counter => (Kind::Counter, Reading::Counter(sample.value as u64)),
            Kind::Gauge | Kind::Histogram => (Kind::Gauge, Reading::Gauge(sample.value)),
        };
        let description = Description {
            name: sample.name.into(),
            help: sample.help.into(),
            kind,
        };
        self.add(&description, &labels, reading);
    }

    /// Takes over what must not go backwards when a shard ends: counters and histograms.
    pub(crate) fn absorb_totals(&mut self, gone: Self) {
        for (description, series) in gone.metrics.into_values() {
            for (labels, reading) in series {
                if !matches!(reading, Reading::Gauge(_)) {
                    self.add(&description, &labels, reading);
                }
            }
        }
    }

    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        for (description, series) in self.metrics.values() {
            let Description { name, help, kind } = description;
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, reading) in series {
                push_reading(&mut out, name, labels, reading);
            }
        }
        out
    }
}

fn push_reading(out: &mut String, name: &str, labels: &str, reading: &Reading) {
    match reading {
        Reading::Counter(value) => push_line(out, name, "", labels, value),
        Reading::Gauge(value) => push_line(out, name, "", labels, value),
        Reading::Histogram {
            bounds,
            buckets,
            sum,
        } => {
            let mut total = 0u64;
            let ends = bounds
                .iter()
                .map(ToString::to_string)
                .chain(["+Inf".to_owned()]);
            let comma = if labels.is_empty() { "" } else { "," };
            for (count, end) in buckets.iter().zip(ends) {
                total = total.saturating_add(*count);
                let labels = format!("{labels}{comma}le=\"{end}\"");
                push_line(out, name, "_bucket", &labels, &total);
            }
            push_line(out, name, "_sum", labels, sum);
            push_line(out, name, "_count", labels, &total);
        }
    }
}

fn push_line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    value: &dyn std::fmt::Display,
) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name}{suffix} {value}")
    } else {
        writeln!(out, "{name}{suffix}{{{labels}}} {value}")
    };
}

/// Appends `name="value"` pairs, separated by commas, values escaped.
pub(crate) fn push_labels<'a>(out: &mut String, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
}
