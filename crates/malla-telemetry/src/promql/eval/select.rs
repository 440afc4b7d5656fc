//! Series out of the store: at instants, over ranges, and by subqueries.

use crate::metrics::{Labels, Sample, is_stale};
use crate::promql::ast::{At, Expr, Modifiers, Selector, Subquery};
use crate::promql::engine::Dialect;
use crate::promql::eval::{Eval, Grid, NONE, Result, Series, is_none, wrong};

/// When the data of a step is from.
#[derive(Debug, Clone, Copy)]
struct Shift {
    fixed: Option<i64>,
    offset: i64,
}

impl Shift {
    fn time(self, step: i64) -> i64 {
        self.fixed.unwrap_or(step).saturating_sub(self.offset)
    }
}

/// Series with the samples that the windows of all steps need.
#[derive(Debug)]
pub(super) struct Ranged {
    pub(super) series: Vec<RangedSeries>,
    range: i64,
    shift: Shift,
    dialect: Dialect,
}

#[derive(Debug)]
pub(super) struct RangedSeries {
    pub(super) labels: Labels,
    samples: Vec<Sample>,
}

/// What a function over a range sees at one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a> {
    /// Never empty.
    pub(super) samples: &'a [Sample],
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) step: usize,
    /// The step's own time, which `offset` and `@` don't change.
    pub(super) at: i64,
}

impl Ranged {
    /// Calls `each` for every step with a sample in its window.
    pub(super) fn windows(
        &self,
        series: &RangedSeries,
        grid: Grid,
        mut each: impl FnMut(Window<'_>),
    ) {
        let samples = &series.samples;
        let (mut from, mut to) = (0, 0);
        for (step, at) in grid.times().enumerate() {
            let end = self.shift.time(at);
            let start = end.saturating_sub(self.range);
            let outside = |s: &Sample| match self.dialect {
                Dialect::V2 => s.t < start,
                Dialect::V3 => s.t <= start,
            };
            while samples.get(from).is_some_and(outside) {
                from += 1;
            }
            to = to.max(from);
            while samples.get(to).is_some_and(|s| s.t <= end) {
                to += 1;
            }
            if let Some(samples) = samples.get(from..to).filter(|s| !s.is_empty()) {
                each(Window {
                    samples,
                    start,
                    end,
                    step,
                    at,
                });
            }
        }
    }
}

impl Eval<'_> {
    fn shift(&self, modifiers: &Modifiers) -> Shift {
        let fixed = modifiers.at.map(|at| match at {
            At::Time(t) => t,
            At::Start => self.bounds.0,
            At::End => self.bounds.1,
        });
        Shift {
            fixed,
            offset: modifiers.offset.unwrap_or(0),
        }
    }

    /// The last value of each series at every step, seen through `read`.
    pub(super) fn instants(
        &self,
        selector: &Selector,
        grid: Grid,
        read: impl Fn(Sample) -> f64,
    ) -> Result<Vec<Series>> {
        let shift = self.shift(&selector.modifiers);
        let lookback = i64::try_from(self.config.lookback.as_millis()).unwrap_or(i64::MAX);
        let first = shift.time(grid.start).saturating_sub(lookback);
        let found = self.store.select(
            &selector.matchers,
            first,
            shift.time(grid.end()),
            self.budget.get(),
        )?;
        let mut all = Vec::with_capacity(found.len());
        for series in found {
            self.charge(series.samples.len() + grid.count)?;
            let mut next = 0;
            let mut last: Option<Sample> = None;
            let points = grid.times().map(|at| {
                let at = shift.time(at);
                while let Some(sample) = series.samples.get(next).filter(|s| s.t <= at) {
                    last = Some(*sample);
                    next += 1;
                }
                let oldest = at.saturating_sub(lookback);
                let alive = |s: &Sample| match self.config.dialect {
                    Dialect::V2 => s.t >= oldest,
                    Dialect::V3 => s.t > oldest,
                };
                last.filter(|s| alive(s) && !is_stale(s.v))
                    .map_or(NONE, &read)
            });
            let points: Vec<f64> = points.collect();
            if points.iter().any(|v| !is_none(*v)) {
                all.push(Series {
                    labels: series.labels,
                    points,
                });
            }
        }
        Ok(all)
    }

    /// The samples behind a range vector, for all steps.
    pub(super) fn ranged(&self, expr: &Expr, grid: Grid) -> Result<Ranged> {
        match expr {
            Expr::Range(selector, range) => self.range(selector, *range, grid),
            Expr::Subquery(subquery) => self.subquery(subquery, grid),
            _ => wrong("a range vector is expected"),
        }
    }

    fn range(&self, selector: &Selector, range: i64, grid: Grid) -> Result<Ranged> {
        let shift = self.shift(&selector.modifiers);
        let first = shift.time(grid.start).saturating_sub(range);
        let found = self.store.select(
            &selector.matchers,
            first,
            shift.time(grid.end()),
            self.budget.get(),
        )?;
        let mut series = Vec::with_capacity(found.len());
        for mut data in found {
            self.charge(data.samples.len() + grid.count)?;
            data.samples.retain(|s| !is_stale(s.v));
            series.push(RangedSeries {
                labels: data.labels,
                samples: data.samples,
            });
        }
        Ok(Ranged {
            series,
            range,
            shift,
            dialect: self.config.dialect,
        })
    }

    /// Evaluates the inner query on a grid whose times are multiples of its step, so that the
    /// same times are asked for whenever the outer query runs.
    fn subquery(&self, subquery: &Subquery, grid: Grid) -> Result<Ranged> {
        let shift = self.shift(&subquery.modifiers);
        let default = i64::try_from(self.config.default_step.as_millis()).unwrap_or(60_000);
        let step = subquery.step.unwrap_or(default).max(1);
        let first = shift.time(grid.start).saturating_sub(subquery.range);
        let mut start = (first / step).saturating_mul(step);
        let before = match self.config.dialect {
            Dialect::V2 => start < first,
            Dialect::V3 => start <= first,
        };
        if before {
            start = start.saturating_add(step);
        }
        let last = shift.time(grid.end());
        let count = if last < start {
            0
        } else {
            usize::try_from((last.saturating_sub(start)) / step).unwrap_or(usize::MAX - 1) + 1
        };
        self.charge(count)?;
        let inner = Grid { start, step, count };
        let values = match count {
            0 => Vec::new(),
            _ => self.vector(&subquery.expr, inner)?,
        };
        let mut series = Vec::with_capacity(values.len());
        for value in values {
            self.charge(count)?;
            series.push(RangedSeries {
                samples: inner.samples(&value.points),
                labels: value.labels,
            });
        }
        Ok(Ranged {
            series,
            range: subquery.range,
            shift,
            dialect: self.config.dialect,
        })
    }
}
