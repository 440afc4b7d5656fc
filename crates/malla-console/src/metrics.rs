//! What requests really did, as Istio's standard metrics say it.
//!
//! The console asks in PromQL; who answers is the caller's choice: the built-in store, or any
//! Prometheus. Without one, figures are absent.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;

use crate::wire::{Bounds, Call, WireError, query_value};

/// Labels of one series.
pub type Labels = BTreeMap<String, String>;

/// One value of an instant query.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    pub value: f64,
}

/// One series of a range query: (unix seconds, value).
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: Labels,
    pub points: Vec<(f64, f64)>,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("the metrics store does not answer")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Closed(#[from] malla_telemetry::collector::Closed),
    #[error("the metrics store refuses {query:?}: {reason}")]
    Refused { query: String, reason: String },
}

/// Answers PromQL.
pub trait Metrics: Send + Sync + std::fmt::Debug {
    /// The values now.
    ///
    /// # Errors
    /// When the store does not answer, or does not understand.
    fn instant<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>>;

    /// The values from `start` to `end` (unix seconds), every `step` seconds.
    ///
    /// # Errors
    /// As [`Metrics::instant`].
    fn range<'a>(
        &'a self,
        query: &'a str,
        start: f64,
        end: f64,
        step: f64,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>>;
}

/// The Prometheus HTTP API of whoever listens at `address`.
#[derive(Debug, Clone)]
pub struct Prometheus {
    /// `host:port`.
    pub address: String,
}

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(5),
    bytes: 16 * 1024 * 1024,
};

#[derive(Debug, Deserialize)]
struct Reply {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(default)]
    result: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    metric: Labels,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl Prometheus {
    async fn ask(&self, path: &str, query: &str) -> Result<Vec<Entry>, MetricsError> {
        let answer = Call::get(&self.address, path)
            .to(&self.address, BOUNDS)
            .await?;
        let reply: Reply = serde_json::from_slice(&answer.body).map_err(WireError::from)?;
        match reply.data {
            Some(data) if reply.status == "success" => Ok(data.result),
            _ => Err(MetricsError::Refused {
                query: query.to_owned(),
                reason: reply.error,
            }),
        }
    }
}

impl Metrics for Prometheus {
    fn instant<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        Box::pin(async move {
            let path = format!("/api/v1/query?query={}", query_value(query));
            let entries = self.ask(&path, query).await?;
            let samples = entries.into_iter().filter_map(|entry| {
                Some(Sample {
                    labels: entry.metric,
                    value: entry.value?.1.parse().ok()?,
                })
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
            let text = query_value(query);
            let path =
                format!("/api/v1/query_range?query={text}&start={start}&end={end}&step={step}");
            let entries = self.ask(&path, query).await?;
            let series = entries.into_iter().map(|entry| Series {
                labels: entry.metric,
                points: entry
                    .values
                    .iter()
                    .filter_map(|(t, v)| Some((*t, v.parse().ok()?)))
                    .collect(),
            });
            Ok(series.collect())
        })
    }
}

/// What went through one thing during a window.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Flow {
    /// Requests a second.
    pub(crate) rps: f64,
    /// 5xx and responses that never came, between 0 and 1.
    pub(crate) error_share: f64,
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    /// Milliseconds.
    pub(crate) p99: Option<f64>,
}

const REQUESTS: &str = "istio_requests_total";
const DURATIONS: &str = "istio_request_duration_milliseconds_bucket";

/// Both ends of a call count it: whose word is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenBy {
    /// The caller's: gateways have no other.
    Caller,
    /// The callee's: it knows which version answered.
    Callee,
    /// The caller's, who also sees what never arrived; the callee's where the caller has no proxy.
    Either,
}

impl SeenBy {
    /// Rates of `metric` with `matchers`, in PromQL.
    pub(crate) fn rate(self, metric: &str, matchers: &str, window: u32) -> String {
        let comma = if matchers.is_empty() { "" } else { "," };
        let of = |side: &str| format!("rate({metric}{{{side}{comma}{matchers}}}[{window}s])");
        let (caller, callee) = ("reporter=\"source\"", "reporter=\"destination\"");
        match self {
            Self::Caller => of(caller),
            Self::Callee => of(callee),
            Self::Either => {
                let strangers = format!("{callee},source_workload=\"unknown\"");
                format!("({} or {})", of(caller), of(&strangers))
            }
        }
    }
}

/// As responses that never came, and those that say that the server is at fault.
pub(crate) const FAILED: &str = "response_code=~\"0|5..\"";

/// Flows by the values of labels, for the series that `matchers` pick, over the last `window` seconds. Empty without a store.
pub(crate) async fn flows(
    metrics: Option<&dyn Metrics>,
    seen: SeenBy,
    matchers: &str,
    by: &[&str],
    window: u32,
) -> BTreeMap<Vec<String>, Flow> {
    let Some(metrics) = metrics else {
        return BTreeMap::new();
    };
    let labels = by.join(", ");
    let rate = |matchers: &str| {
        format!(
            "sum by ({labels}) ({})",
            seen.rate(REQUESTS, matchers, window)
        )
    };
    let quantile = |q: &str| {
        let buckets = seen.rate(DURATIONS, matchers, window);
        let groups = if labels.is_empty() {
            "le".to_owned()
        } else {
            format!("{labels}, le")
        };
        format!("histogram_quantile({q}, sum by ({groups}) ({buckets}))")
    };
    let failed = match matchers {
        "" => FAILED.to_owned(),
        matchers => format!("{matchers},{FAILED}"),
    };
    let queries = [
        rate(matchers),
        rate(&failed),
        quantile("0.5"),
        quantile("0.9"),
        quantile("0.99"),
    ];
    let answers =
        futures_util::future::join_all(queries.iter().map(|query| metrics.instant(query))).await;
    let mut flows: BTreeMap<Vec<String>, Flow> = BTreeMap::new();
    for (at, answer) in answers.into_iter().enumerate() {
        let samples = answer.unwrap_or_else(|error| {
            tracing::debug!(%error, "figures are missing");
            Vec::new()
        });
        for sample in samples
            .into_iter()
            .filter(|sample| sample.value.is_finite())
        {
            let key = by
                .iter()
                .map(|label| sample.labels.get(*label).cloned().unwrap_or_default());
            let flow = flows.entry(key.collect()).or_default();
            match at {
                0 => flow.rps = sample.value,
                1 => flow.error_share = sample.value, // A rate until it is divided below.
                2 => flow.p50 = Some(sample.value),
                3 => flow.p90 = Some(sample.value),
                _ => flow.p99 = Some(sample.value),
            }
        }
    }
    for flow in flows.values_mut() {
        flow.error_share = if flow.rps > 0.0 {
            (flow.error_share / flow.rps).clamp(0.0, 1.0)
        } else {
            0.0
        };
    }
    flows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed;

    impl Metrics for Fixed {
        fn instant<'a>(
            &'a self,
            query: &'a str,
        ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
            let value = match query {
                q if q.contains("response_code") => 1.0,
                q if q.starts_with("histogram_quantile(0.99") => f64::NAN,
                q if q.starts_with("histogram_quantile") => 12.0,
                _ => 4.0,
            };
            let labels = BTreeMap::from([("name".to_owned(), "cart".to_owned())]);
            Box::pin(async move { Ok(vec![Sample { labels, value }]) })
        }

        fn range<'a>(
            &'a self,
            _: &'a str,
            _: f64,
            _: f64,
            _: f64,
        ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    #[test]
    fn both_ends_are_never_added_up() {
        assert_eq!(
            SeenBy::Either.rate("m", "a=\"b\"", 60),
            "(rate(m{reporter=\"source\",a=\"b\"}[60s]) or rate(m{reporter=\"destination\",source_workload=\"unknown\",a=\"b\"}[60s]))"
        );
        assert_eq!(
            SeenBy::Callee.rate("m", "", 5),
            "rate(m{reporter=\"destination\"}[5s])"
        );
    }

    #[tokio::test]
    async fn flows_are_rates_shares_and_quantiles_that_exist() {
        let flows = flows(Some(&Fixed), SeenBy::Either, "", &["name"], 60).await;
        let expected = Flow {
            rps: 4.0,
            error_share: 0.25,
            p50: Some(12.0),
            p90: Some(12.0),
            p99: None,
        };
        assert_eq!(flows, BTreeMap::from([(vec!["cart".to_owned()], expected)]));
        assert!(
            super::flows(None, SeenBy::Callee, "", &[], 60)
                .await
                .is_empty()
        );
    }
}
