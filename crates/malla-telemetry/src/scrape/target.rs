//! One target: where it is, what its series are called, and which of them are alive.
//!
//! Invariants: a series that disappears from the exposition, and every series of a target that
//! fails or goes away, ends with a stale marker. A body that isn't understood is taken as a whole
//! or not at all.

use std::collections::{BTreeMap, HashMap};

use crate::metrics::{Labels, NAME, Row, STALE, Sample, SeriesRef};
use crate::scrape::metadata::Metadata;
use crate::scrape::text::{self, Line};

/// Where metrics are fetched from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// `http://10.0.0.1:15020/stats/prometheus`
    pub url: String,
    /// Put onto every series: `job`, `namespace`, `pod` and whatever else; `instance` is the
    /// address unless given. A series that has such a label itself keeps it as `exported_…`.
    pub labels: BTreeMap<String, String>,
    /// Whether this is a gateway's proxy (for the service graph).
    pub gateway: bool,
}

impl Target {
    /// A target with the usual labels of a pod.
    #[must_use]
    pub fn pod(url: &str, job: &str, namespace: &str, pod: &str) -> Self {
        let labels = [("job", job), ("namespace", namespace), ("pod", pod)];
        Self {
            url: url.to_owned(),
            labels: labels
                .into_iter()
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
            gateway: false,
        }
    }

    /// The labels of the target's own series, such as `up`.
    fn own_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels
            .entry("instance".to_owned())
            .or_insert_with(|| address(&self.url).to_owned());
        labels
    }
}

fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// What one fetch was like.
#[derive(Debug, Clone, Copy)]
pub struct Fetch<'a> {
    /// Unix milliseconds that the samples get.
    pub at: i64,
    pub seconds: f64,
    /// The exposition, or why there is none.
    pub body: Result<&'a str, &'a str>,
}

/// A target's memory between two scrapes.
#[derive(Debug)]
pub struct TargetState {
    own: BTreeMap<String, String>,
    /// Text of a series → its place in `known`.
    places: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    known: Vec<Known>,
    report: Vec<(Labels, Option<SeriesRef>)>,
    round: u64,
    last: i64,
    most_samples: usize,
}

#[derive(Debug)]
struct Known {
    labels: Labels,
    series: Option<SeriesRef>,
    /// The round that saw it last; 0 when it has ended.
    seen: u64,
}

/// Ended series that are remembered, in case they come back.
const MOST_ENDED: usize = 1000;

const REPORTS: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

/// The rows of one scrape, ready for the store, and what went wrong.
#[derive(Debug, Default)]
pub struct Scraped {
    pub rows: Vec<Row>,
    /// Where the first rows stand in the target's memory.
    places: Vec<usize>,
    pub error: Option<String>,
}

impl TargetState {
    #[must_use]
    pub fn new(target: &Target, most_samples: usize) -> Self {
        let own = target.own_labels();
        let report = REPORTS
            .iter()
            .map(|name| {
                let name = (NAME.to_owned(), (*name).to_owned());
                let labels = own.iter().map(|(n, v)| (n.clone(), v.clone()));
                (Labels::new(labels.chain([name])), None)
            })
            .collect();
        Self {
            own,
            places: HashMap::default(),
            known: Vec::new(),
            report,
            round: 1,
            last: i64::MIN,
            most_samples,
        }
    }

    /// Turns what was fetched into rows.
    pub fn take(&mut self, fetch: Fetch<'_>, metadata: &Metadata) -> Scraped {
        self.round += 1;
        self.last = fetch.at;
        let mut out = Scraped::default();
        let read = match fetch.body {
            Ok(body) => self.read(body, fetch.at, metadata, &mut out),
            Err(reason) => Err(reason.to_owned()),
        };
        let (scraped, added) = match read {
            Ok(counts) => counts,
            Err(reason) => {
                out = Scraped {
                    error: Some(reason),
                    ..Scraped::default()
                };
                // Nothing of this round counts, not even what was read before the error.
                self.round += 1;
                (0, 0)
            }
        };
        self.end_missing(fetch.at, &mut out);
        let up = if out.error.is_none() { 1.0 } else { 0.0 };
        let values = [
            up,
            fetch.seconds,
            scraped as f64,
            scraped as f64,
            added as f64,
        ];
        for ((labels, series), v) in self.report.iter().zip(values) {
            out.rows.push(Row {
                labels: labels.clone(),
                series: *series,
                sample: Sample { t: fetch.at, v },
            });
        }
        out
    }

    /// Remembers where the store put the rows of [`TargetState::take`].
    pub fn remember(&mut self, scraped: &Scraped) {
        for (place, row) in scraped.places.iter().zip(&scraped.rows) {
            if let Some(known) = self.known.get_mut(*place) {
                known.series = row.series;
            }
        }
        let reports = scraped.rows.len().saturating_sub(REPORTS.len());
        for ((_, series), row) in self
            .report
            .iter_mut()
            .zip(scraped.rows.iter().skip(reports))
        {
            *series = row.series;
        }
    }

    /// Markers for everything, `up` included: the target is gone.
    pub fn end(&mut self, at: i64) -> Vec<Row> {
        self.round += 1;
        let mut out = Scraped::default();
        self.end_missing(at, &mut out);
        out.rows
            .extend(self.report.iter().map(|(labels, series)| Row {
                labels: labels.clone(),
                series: *series,
                sample: stale(at),
            }));
        out.rows
    }

    fn read(
        &mut self,
        body: &str,
        at: i64,
        metadata: &Metadata,
        out: &mut Scraped,
    ) -> Result<(usize, usize), String> {
        let mut added = 0;
        let mut about = metadata.begin();
        for line in text::lines(body) {
            match line.map_err(|error| error.to_string())? {
                Line::Type { name, kind } => about.kind(name, kind),
                Line::Help { name, text } => about.help(name, text),
                Line::Sample {
                    series,
                    value,
                    timestamp,
                } => {
                    if out.rows.len() >= self.most_samples {
                        return Err(format!("more than {} samples", self.most_samples));
                    }
                    added += usize::from(self.row(series, value, timestamp, at, out)?);
                }
            }
        }
        Ok((out.rows.len(), added))
    }

    /// Adds a row; `true` when the series is new or was ended.
    fn row(
        &mut self,
        series: &str,
        v: f64,
        timestamp: Option<i64>,
        at: i64,
        out: &mut Scraped,
    ) -> Result<bool, String> {
        let place = match self.places.get(series) {
            Some(place) => *place,
            None => {
                let labels = self.labels(series)?;
                self.places.insert(series.into(), self.known.len());
                self.known.push(Known {
                    labels,
                    series: None,
                    seen: 0,
                });
                self.known.len() - 1
            }
        };
        let Some(known) = self.known.get_mut(place) else {
            return Ok(false);
        };
        let new = known.seen == 0;
        // A series with times of its own says itself how long it is good.
        known.seen = if timestamp.is_none() { self.round } else { 0 };
        out.places.push(place);
        out.rows.push(Row {
            labels: known.labels.clone(),
            series: known.series,
            sample: Sample {
                t: timestamp.unwrap_or(at),
                v,
            },
        });
        Ok(new)
    }

    fn labels(&self, series: &str) -> Result<Labels, String> {
        let scraped = text::labels(series).map_err(|reason| format!("{series:.200}: {reason}"))?;
        let mut labels: Vec<(String, String)> = Vec::with_capacity(scraped.len() + self.own.len());
        for (name, value) in scraped {
            let taken = self.own.contains_key(&name) && !value.is_empty();
            let name = if taken {
                format!("exported_{name}")
            } else {
                name
            };
            labels.push((name, value));
        }
        labels.extend(self.own.iter().map(|(n, v)| (n.clone(), v.clone())));
        Ok(Labels::new(labels))
    }

    /// Ends the series that this round did not see.
    fn end_missing(&mut self, at: i64, out: &mut Scraped) {
        let mut ended = 0;
        for known in &mut self.known {
            if known.seen != 0 && known.seen != self.round {
                known.seen = 0;
                out.rows.push(Row {
                    labels: known.labels.clone(),
                    series: known.series,
                    sample: stale(at),
                });
            }
            ended += usize::from(known.seen == 0);
        }
        if ended > MOST_ENDED && ended * 2 > self.known.len() {
            self.forget_ended(out);
        }
    }

    fn forget_ended(&mut self, out: &mut Scraped) {
        let mut moved = HashMap::new();
        let known = std::mem::take(&mut self.known);
        for (place, known) in known.into_iter().enumerate() {
            if known.seen != 0 {
                moved.insert(place, self.known.len());
                self.known.push(known);
            }
        }
        self.places.retain(|_, place| match moved.get(place) {
            Some(now) => {
                *place = *now;
                true
            }
            None => false,
        });
        for place in &mut out.places {
            *place = moved.get(place).copied().unwrap_or(usize::MAX);
        }
    }
}

fn stale(t: i64) -> Sample {
    Sample {
        t,
        v: f64::from_bits(STALE),
    }
}

#[cfg(test)]
mod tests;
