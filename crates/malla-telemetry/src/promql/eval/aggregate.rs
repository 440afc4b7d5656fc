//! Aggregations: groups of series, folded step by step.

use std::collections::HashMap;

use crate::metrics::{Labels, NAME};
use crate::promql::ast::{Aggregate, AggregateOp, Expr};
use crate::promql::eval::over_time::{sum, variance};
use crate::promql::eval::{Eval, Grid, NONE, Result, Series, Value, is_none, wrong};

/// Series that share the grouping's labels, in the order they came.
struct Group {
    labels: Labels,
    series: Vec<Series>,
}

impl Eval<'_> {
    pub(super) fn aggregate(&self, aggregate: &Aggregate, grid: Grid) -> Result<Vec<Series>> {
        let series = self.vector(&aggregate.expr, grid)?;
        let groups = groups(series, aggregate);
        self.charge(groups.len().saturating_mul(grid.count))?;
        let parameter = aggregate.parameter.as_ref();
        match (aggregate.op, parameter) {
            (op @ (AggregateOp::Topk | AggregateOp::Bottomk), Some(k)) => {
                let k = self.scalar(k, grid)?;
                pick(groups, op == AggregateOp::Topk, &k)
            }
            (AggregateOp::Quantile, Some(q)) => {
                let q = self.scalar(q, grid)?;
                let at = |step: usize| q.get(step).copied().unwrap_or(f64::NAN);
                Ok(fold(groups, grid, |step, values| {
                    quantile(at(step), values)
                }))
            }
            (AggregateOp::CountValues, Some(label)) => self.count_values(groups, label, grid),
            (op, _) => Ok(fold(groups, grid, |_, values| simple(op, values))),
        }
    }

    fn count_values(&self, groups: Vec<Group>, label: &Expr, grid: Grid) -> Result<Vec<Series>> {
        let Value::Text(label) = self.eval(label, grid)? else {
            return wrong("a string is expected");
        };
        if !is_label(&label) {
            return wrong(format!("invalid label name {label:?}"));
        }
        let mut found: Vec<Series> = Vec::new();
        let mut places: HashMap<Labels, usize> = HashMap::new();
        for group in groups {
            for series in &group.series {
                for (step, v) in series
                    .points
                    .iter()
                    .enumerate()
                    .filter(|(_, v)| !is_none(**v))
                {
                    let labels = group.labels.with(&label, &crate::api::json::number(*v));
                    let place = match places.get(&labels) {
                        Some(place) => *place,
                        None => {
                            self.charge(grid.count)?;
                            places.insert(labels.clone(), found.len());
                            found.push(Series {
                                labels,
                                points: vec![NONE; grid.count],
                            });
                            found.len() - 1
                        }
                    };
                    let point = found.get_mut(place).and_then(|s| s.points.get_mut(step));
                    if let Some(point) = point {
                        *point = if is_none(*point) { 1.0 } else { *point + 1.0 };
                    }
                }
            }
        }
        Ok(found)
    }
}

pub(super) fn is_label(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn groups(series: Vec<Series>, aggregate: &Aggregate) -> Vec<Group> {
    let named = |name: &str| aggregate.labels.iter().any(|label| label == name);
    let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut groups: Vec<Group> = Vec::new();
    for series in series {
        let labels = match aggregate.without {
            true => series.labels.filter(|name| name != NAME && !named(name)),
            false => series.labels.filter(named),
        };
        let place = *places.entry(labels).or_insert_with_key(|labels| {
            groups.push(Group {
                labels: labels.clone(),
                series: Vec::new(),
            });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(place) {
            group.series.push(series);
        }
    }
    groups
}

/// One series per group, from the values that are there at each step.
fn fold(groups: Vec<Group>, grid: Grid, f: impl Fn(usize, &mut Vec<f64>) -> f64) -> Vec<Series> {
    let mut values = Vec::new();
    let folded = groups.into_iter().map(|group| {
        let points = (0..grid.count).map(|step| {
            values.clear();
            let here = group.series.iter().filter_map(|s| s.points.get(step));
            values.extend(here.filter(|v| !is_none(**v)));
            match values.is_empty() {
                true => NONE,
                false => f(step, &mut values),
            }
        });
        Series {
            points: points.collect(),
            labels: group.labels,
        }
    });
    folded.collect()
}

/// Never called without values.
fn simple(op: AggregateOp, values: &[f64]) -> f64 {
    let all = || values.iter().copied();
    let least = |a: f64, b: f64| if b < a || a.is_nan() { b } else { a };
    let most = |a: f64, b: f64| if b > a || a.is_nan() { b } else { a };
    match op {
        AggregateOp::Sum => sum(all()),
        AggregateOp::Avg => sum(all()) / values.len() as f64,
        AggregateOp::Min => all().reduce(least).unwrap_or(NONE),
        AggregateOp::Max => all().reduce(most).unwrap_or(NONE),
        AggregateOp::Count => values.len() as f64,
        AggregateOp::Group => 1.0,
        AggregateOp::Stddev => variance(all()).sqrt(),
        AggregateOp::Stdvar => variance(all()),
        // These take a parameter and are handled by the caller.
        AggregateOp::Topk
        | AggregateOp::Bottomk
        | AggregateOp::Quantile
        | AggregateOp::CountValues => f64::NAN,
    }
}

/// `quantile` by linear interpolation; NaN counts as the smallest value.
pub(super) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(|a, b| nan_first(*a, *b));
    let last = (values.len() - 1) as f64;
    let rank = q * last;
    let lower = rank.floor().max(0.0);
    let upper = last.min(lower + 1.0);
    let weight = rank - rank.floor();
    let at = |place: f64| values.get(place as usize).copied().unwrap_or(f64::NAN);
    at(lower) * (1.0 - weight) + at(upper) * weight
}

pub(super) fn nan_first(a: f64, b: f64) -> std::cmp::Ordering {
    (!a.is_nan())
        .cmp(&!b.is_nan())
        .then_with(|| a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal))
}

/// `topk` and `bottomk`: the series themselves, where they are among the first k.
fn pick(groups: Vec<Group>, top: bool, k: &[f64]) -> Result<Vec<Series>> {
    let mut found = Vec::new();
    for group in groups {
        let mut kept: Vec<Vec<f64>> = group
            .series
            .iter()
            .map(|s| vec![NONE; s.points.len()])
            .collect();
        let mut order = Vec::new();
        for (step, k) in k.iter().enumerate() {
            if k.is_nan() || k.abs() >= 9.2e18 {
                return wrong(format!("Scalar value {k} overflows int64"));
            }
            order.clear();
            let here = group.series.iter().map(|s| s.points.get(step).copied());
            let here = here.map(|v| v.unwrap_or(NONE)).enumerate();
            order.extend(here.filter(|(_, v)| !is_none(*v)));
            // NaN comes last either way; of equals, the first stays first.
            order.sort_by(|(_, a), (_, b)| {
                a.is_nan().cmp(&b.is_nan()).then_with(|| match top {
                    true => nan_first(*b, *a),
                    false => nan_first(*a, *b),
                })
            });
            order.truncate((*k).max(0.0) as usize);
            for (at, v) in &order {
                if let Some(point) = kept.get_mut(*at).and_then(|p| p.get_mut(step)) {
                    *point = *v;
                }
            }
        }
        // At an instant the answer is in order of value.
        let mut series: Vec<(Series, Vec<f64>)> = group.series.into_iter().zip(kept).collect();
        if k.len() == 1 {
            let rank = |at: usize| {
                order
                    .iter()
                    .position(|(a, _)| *a == at)
                    .unwrap_or(usize::MAX)
            };
            let mut ranked: Vec<_> = series.into_iter().enumerate().collect();
            ranked.sort_by_key(|(at, _)| rank(*at));
            series = ranked.into_iter().map(|(_, s)| s).collect();
        }
        let picked = series
            .into_iter()
            .filter(|(_, p)| p.iter().any(|v| !is_none(*v)));
        found.extend(picked.map(|(series, points)| Series {
            labels: series.labels,
            points,
        }));
    }
    Ok(found)
}
