//! Running queries within limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::metrics::{Labels, MetricStore, Sample, SeriesData, StoreError};
use crate::promql::ast::{Expr, Kind};
use crate::promql::eval::{Eval, Grid, Value, is_none};
use crate::promql::{ParseError, parse};

/// Whose boundaries ranges have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus 2: a range contains both of its ends.
    V2,
    /// Prometheus 3: a range does not contain its beginning.
    #[default]
    V3,
}

/// Limits and defaults of queries.
#[derive(Debug, Clone)]
pub struct QueryConfig {
    /// How long a sample counts when no later one follows.
    pub lookback: Duration,
    /// Samples one query may touch.
    pub max_samples: u64,
    /// Steps of one range query.
    pub max_steps: usize,
    /// After this a query is abandoned.
    pub timeout: Duration,
    /// Queries that may run at once; others wait.
    pub at_once: usize,
    /// The step of a subquery that gives none.
    pub default_step: Duration,
    pub dialect: Dialect,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            lookback: Duration::from_secs(300),
            max_samples: 20_000_000,
            max_steps: 11_000,
            timeout: Duration::from_secs(60),
            at_once: 4,
            default_step: Duration::from_secs(60),
            dialect: Dialect::V3,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("invalid parameter \"query\": {0}")]
    Parse(#[from] ParseError),
    #[error("{0}")]
    BadRange(String),
    #[error("{0}")]
    Execution(String),
    #[error("query timed out in expression evaluation")]
    Timeout,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a query says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Scalar(Sample),
    Vector(Vec<(Labels, Sample)>),
    Matrix(Vec<SeriesData>),
    /// Unix milliseconds and text.
    Text(i64, String),
}

/// Stops a running query from outside.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Evaluates queries over a store. Calls block: run them off the async threads.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Arc<MetricStore>,
    config: QueryConfig,
}

impl Engine {
    #[must_use]
    pub fn new(store: Arc<MetricStore>, config: QueryConfig) -> Self {
        Self { store, config }
    }

    #[must_use]
    pub fn config(&self) -> &QueryConfig {
        &self.config
    }

    #[must_use]
    pub fn store(&self) -> &Arc<MetricStore> {
        &self.store
    }

    /// The value of a query at `t`, Unix milliseconds.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn instant(&self, query: &str, t: i64, cancel: &Cancel) -> Result<Answer, QueryError> {
        let expr = parse(query)?;
        let grid = Grid {
            start: t,
            step: 1,
            count: 1,
        };
        let eval = Eval::new(&self.store, &self.config, (t, t), cancel);
        if expr.kind() == Kind::Matrix {
            return Ok(Answer::Matrix(eval.matrix(&expr, grid)?));
        }
        let sorted = matches!(&expr, Expr::Call(call) if call.function.name.starts_with("sort"))
            || matches!(&expr, Expr::Aggregate(a) if a.op.parameter() == Some(Kind::Scalar));
        Ok(match eval.eval(&expr, grid)? {
            Value::Text(text) => Answer::Text(t, text),
            Value::Scalar(values) => Answer::Scalar(Sample {
                t,
                v: values.first().copied().unwrap_or(f64::NAN),
            }),
            Value::Vector(mut series) => {
                if !sorted {
                    series.sort_by(|a, b| a.labels.cmp(&b.labels));
                }
                let points = series.into_iter().filter_map(|series| {
                    let v = series.points.first().copied()?;
                    (!is_none(v)).then_some((series.labels, Sample { t, v }))
                });
                Answer::Vector(points.collect())
            }
        })
    }

    /// The values of a query from `start` to `end` (inclusive), every `step` milliseconds.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn range(
        &self,
        query: &str,
        (start, end): (i64, i64),
        step: i64,
        cancel: &Cancel,
    ) -> Result<Vec<SeriesData>, QueryError> {
        let expr = parse(query)?;
        let grid = self.grid(start, end, step)?;
        if !matches!(expr.kind(), Kind::Scalar | Kind::Vector) {
            return Err(QueryError::BadRange(format!(
                "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
                expr.kind()
            )));
        }
        let eval = Eval::new(&self.store, &self.config, (start, end), cancel);
        let series = match eval.eval(&expr, grid)? {
            Value::Scalar(values) => vec![SeriesData {
                labels: Labels::default(),
                samples: grid.samples(&values),
            }],
            Value::Vector(series) => {
                let series = series.into_iter().map(|series| SeriesData {
                    samples: grid.samples(&series.points),
                    labels: series.labels,
                });
                series.filter(|series| !series.samples.is_empty()).collect()
            }
            Value::Text(_) => Vec::new(),
        };
        Ok(sorted(series))
    }

    fn grid(&self, start: i64, end: i64, step: i64) -> Result<Grid, QueryError> {
        let wrong = |reason: &str| Err(QueryError::BadRange(reason.to_owned()));
        if step <= 0 {
            return wrong(
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            );
        }
        let Some(length) = end.checked_sub(start).filter(|length| *length >= 0) else {
            return wrong("end timestamp must not be before start time");
        };
        let count = usize::try_from(length / step).unwrap_or(usize::MAX);
        if count > self.config.max_steps {
            return Err(QueryError::BadRange(format!(
                "exceeded maximum resolution of {} points per timeseries. \
                 Try decreasing the query resolution (?step=XX)",
                self.config.max_steps
            )));
        }
        Ok(Grid {
            start,
            step,
            count: count + 1,
        })
    }
}

fn sorted(mut series: Vec<SeriesData>) -> Vec<SeriesData> {
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series
}
