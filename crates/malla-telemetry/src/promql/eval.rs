//! The evaluator: every node yields its value at all steps at once.
//!
//! Invariants: all points of one evaluation have the same length, the grid's; "no value here" is
//! the stale marker's bit pattern ([`NONE`]), which no calculation yields; no two series of a
//! vector have the same labels and a value at the same step.

mod aggregate;
mod binary;
mod calendar;
mod call;
pub(crate) mod histogram;
mod over_time;
mod relabel;
mod select;

use std::cell::Cell;
use std::collections::HashMap;

use crate::metrics::{Labels, MetricStore, STALE, Sample, SeriesData};
use crate::promql::ast::Expr;
use crate::promql::engine::{Cancel, QueryConfig, QueryError};

/// "No value at this step."
pub(crate) const NONE: f64 = f64::from_bits(STALE);

pub(crate) fn is_none(v: f64) -> bool {
    v.to_bits() == STALE
}

/// The steps of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start: i64,
    pub(crate) step: i64,
    pub(crate) count: usize,
}

impl Grid {
    pub(crate) fn time(&self, at: usize) -> i64 {
        self.start
            .saturating_add(self.step.saturating_mul(at as i64))
    }

    fn end(&self) -> i64 {
        self.time(self.count.saturating_sub(1))
    }

    fn times(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |at| self.time(at))
    }

    pub(crate) fn samples(&self, points: &[f64]) -> Vec<Sample> {
        let points = points.iter().enumerate().filter(|(_, v)| !is_none(**v));
        points
            .map(|(at, v)| Sample {
                t: self.time(at),
                v: *v,
            })
            .collect()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) points: Vec<f64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Scalar(Vec<f64>),
    Vector(Vec<Series>),
    Text(String),
}

type Result<T> = std::result::Result<T, QueryError>;

fn wrong<T>(reason: impl Into<String>) -> Result<T> {
    Err(QueryError::Execution(reason.into()))
}

/// One query being evaluated.
pub(crate) struct Eval<'a> {
    store: &'a MetricStore,
    config: &'a QueryConfig,
    /// What `start()` and `end()` mean.
    bounds: (i64, i64),
    cancel: &'a Cancel,
    budget: Cell<u64>,
}

impl<'a> Eval<'a> {
    pub(crate) fn new(
        store: &'a MetricStore,
        config: &'a QueryConfig,
        bounds: (i64, i64),
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            store,
            config,
            bounds,
            cancel,
            budget: Cell::new(config.max_samples),
        }
    }

    pub(crate) fn eval(&self, expr: &Expr, grid: Grid) -> Result<Value> {
        self.charge(0)?;
        match expr {
            Expr::Number(number) => Ok(Value::Scalar(vec![*number; grid.count])),
            Expr::Text(text) => Ok(Value::Text(text.clone())),
            Expr::Selector(selector) => self.instants(selector, grid, |s| s.v).map(Value::Vector),
            Expr::Range(..) | Expr::Subquery(_) => wrong("a range vector has no value of its own"),
            Expr::Call(call) => self.call(call, grid),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate, grid).map(Value::Vector),
            Expr::Binary(binary) => self.binary(binary, grid),
            Expr::Negate(expr) => self.negate(expr, grid),
        }
    }

    fn negate(&self, expr: &Expr, grid: Grid) -> Result<Value> {
        match self.eval(expr, grid)? {
            Value::Scalar(values) => Ok(Value::Scalar(values.iter().map(|v| -v).collect())),
            Value::Vector(series) => self.map(series, |v| -v).map(Value::Vector),
            Value::Text(_) => wrong("a string cannot be negated"),
        }
    }

    /// The samples behind a range vector, for an instant query that asks for it.
    pub(crate) fn matrix(&self, expr: &Expr, grid: Grid) -> Result<Vec<SeriesData>> {
        let ranged = self.ranged(expr, grid)?;
        let mut found = Vec::new();
        for series in &ranged.series {
            let mut samples = Vec::new();
            ranged.windows(series, grid, |window| {
                samples.extend_from_slice(window.samples)
            });
            if !samples.is_empty() {
                found.push(SeriesData {
                    labels: series.labels.clone(),
                    samples,
                });
            }
        }
        Ok(found)
    }

    fn vector(&self, expr: &Expr, grid: Grid) -> Result<Vec<Series>> {
        match self.eval(expr, grid)? {
            Value::Vector(series) => Ok(series),
            _ => wrong("an instant vector is expected"),
        }
    }

    fn scalar(&self, expr: &Expr, grid: Grid) -> Result<Vec<f64>> {
        match self.eval(expr, grid)? {
            Value::Scalar(values) => Ok(values),
            _ => wrong("a scalar is expected"),
        }
    }

    /// Applies a function to every value and drops the metric's name.
    fn map(&self, series: Vec<Series>, f: impl Fn(f64) -> f64) -> Result<Vec<Series>> {
        let changed = series.into_iter().map(|mut series| {
            for v in series.points.iter_mut().filter(|v| !is_none(**v)) {
                *v = f(*v);
            }
            series.labels = series.labels.without_name();
            series
        });
        unique(changed.collect())
    }

    /// Counts samples against the limit, and notices that nobody waits any more.
    fn charge(&self, samples: usize) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(QueryError::Timeout);
        }
        match self.budget.get().checked_sub(samples as u64) {
            Some(left) => {
                self.budget.set(left);
                Ok(())
            }
            None => wrong(format!(
                "query processing would load too many samples into memory in query execution (limit {})",
                self.config.max_samples
            )),
        }
    }
}

/// Joins series that have become equal, if they never have a value at the same step.
fn unique(series: Vec<Series>) -> Result<Vec<Series>> {
    let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut found: Vec<Series> = Vec::with_capacity(series.len());
    for next in series {
        let Some(before) = places.get(&next.labels).and_then(|at| found.get_mut(*at)) else {
            places.insert(next.labels.clone(), found.len());
            found.push(next);
            continue;
        };
        for (kept, v) in before.points.iter_mut().zip(next.points) {
            match (is_none(*kept), is_none(v)) {
                (_, true) => {}
                (true, false) => *kept = v,
                (false, false) => {
                    return wrong("vector cannot contain metrics with the same labelset");
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
