//! The collector of this very process as the answerer of [`Metrics`]: no HTTP to oneself.

use futures_util::future::BoxFuture;
use malla_telemetry::Collector;
use malla_telemetry::promql::Answer;

use crate::metrics::{Metrics, MetricsError, Sample, Series};

impl Metrics for Collector {
    fn instant<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        Box::pin(async move {
            let telemetry = self.telemetry()?;
            let answer = telemetry.instant(query).await;
            let answer = answer.map_err(|error| refused(query, &error))?;
            let Answer::Vector(vector) = answer else {
                return Err(refused(query, &"its answer is no vector"));
            };
            let samples = vector.into_iter().map(|(labels, sample)| Sample {
                labels: named(&labels),
                value: sample.v,
            });
            Ok(samples.collect())
        })
    }

    fn range<'a>(
        &'a self,
        query: &'a str,
        start: f64,
        end: f64,
        step: f64,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        Box::pin(async move {
            let telemetry = self.telemetry()?;
            let bounds = (milliseconds(start), milliseconds(end));
            let answer = telemetry.range(query, bounds, milliseconds(step)).await;
            let series = answer.map_err(|error| refused(query, &error))?;
            let series = series.into_iter().map(|series| Series {
                labels: named(&series.labels),
                points: series
                    .samples
                    .iter()
                    .map(|sample| (seconds(sample.t), sample.v))
                    .collect(),
            });
            Ok(series.collect())
        })
    }
}

fn named(labels: &malla_telemetry::metrics::Labels) -> crate::metrics::Labels {
    let pairs = labels.iter();
    pairs
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn refused(query: &str, reason: &dyn std::fmt::Display) -> MetricsError {
    MetricsError::Refused {
        query: query.to_owned(),
        reason: reason.to_string(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "such casts saturate")]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of this era are exact"
)]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
