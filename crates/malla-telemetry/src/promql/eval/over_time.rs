//! Functions of one window of samples: rates, changes and `…_over_time`.
//!
//! The arithmetic follows Prometheus' `promql/functions.go`.

use crate::metrics::Sample;
use crate::promql::engine::Dialect;
use crate::promql::eval::aggregate::quantile;
use crate::promql::eval::select::Window;

/// The value of a function at one step, or none. `parameter` is the scalar argument.
pub(super) fn apply(
    name: &str,
    window: Window<'_>,
    parameter: f64,
    dialect: Dialect,
) -> Option<f64> {
    let samples = window.samples;
    let values = || samples.iter().map(|s| s.v);
    match name {
        "rate" => extrapolated(window, true, true, dialect),
        "increase" => extrapolated(window, true, false, dialect),
        "delta" => extrapolated(window, false, false, dialect),
        "irate" => last_two(samples, true),
        "idelta" => last_two(samples, false),
        "deriv" => {
            let first = samples.first()?.t;
            (samples.len() > 1).then(|| regression(samples, first).0)
        }
        "predict_linear" => {
            let (slope, intercept) = regression(samples, window.at);
            (samples.len() > 1).then_some(slope * parameter + intercept)
        }
        "resets" => Some(pairs(samples).filter(|(a, b)| b.v < a.v).count() as f64),
        "changes" => {
            let changed = |a: f64, b: f64| a != b && !(a.is_nan() && b.is_nan());
            Some(pairs(samples).filter(|(a, b)| changed(a.v, b.v)).count() as f64)
        }
        "avg_over_time" => Some(sum(values()) / samples.len() as f64),
        "sum_over_time" => Some(sum(values())),
        "count_over_time" => Some(samples.len() as f64),
        "last_over_time" => samples.last().map(|s| s.v),
        "present_over_time" => Some(1.0),
        "min_over_time" => values().reduce(|a, b| if b < a || a.is_nan() { b } else { a }),
        "max_over_time" => values().reduce(|a, b| if b > a || a.is_nan() { b } else { a }),
        "quantile_over_time" => Some(quantile(parameter, &mut values().collect::<Vec<f64>>())),
        "stddev_over_time" => Some(variance(values()).sqrt()),
        "stdvar_over_time" => Some(variance(values())),
        _ => None,
    }
}

fn pairs(samples: &[Sample]) -> impl Iterator<Item = (&Sample, &Sample)> {
    samples.iter().zip(samples.iter().skip(1))
}

fn seconds(from: i64, to: i64) -> f64 {
    to.saturating_sub(from) as f64 / 1000.0
}

/// `rate`, `increase` and `delta`: the change in the window, stretched to its ends where the first
/// and last sample are so close to them that the series most likely went on.
fn extrapolated(window: Window<'_>, counter: bool, rate: bool, dialect: Dialect) -> Option<f64> {
    let (first, last) = (window.samples.first()?, window.samples.last()?);
    let steps = window.samples.len().checked_sub(1).filter(|n| *n > 0)? as f64;
    let mut result = last.v - first.v;
    if counter {
        let lost = pairs(window.samples).filter(|(a, b)| b.v < a.v);
        result += lost.map(|(before, _)| before.v).sum::<f64>();
    }
    let sampled = seconds(first.t, last.t);
    let average = sampled / steps;
    let threshold = average * 1.1;
    let mut to_start = seconds(window.start, first.t);
    let mut to_end = seconds(last.t, window.end);
    // A counter cannot have been below zero before its first sample.
    let to_zero = match counter && result > 0.0 && first.v >= 0.0 {
        true => sampled * (first.v / result),
        false => f64::INFINITY,
    };
    match dialect {
        Dialect::V2 => {
            to_start = to_start.min(to_zero);
            if to_start >= threshold {
                to_start = average / 2.0;
            }
        }
        Dialect::V3 => {
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            to_start = to_start.min(to_zero);
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if rate {
        factor /= seconds(window.start, window.end);
    }
    Some(result * factor)
}

fn last_two(samples: &[Sample], rate: bool) -> Option<f64> {
    let (last, rest) = samples.split_last()?;
    let before = rest.last()?;
    let reset = rate && last.v < before.v;
    let change = if reset { last.v } else { last.v - before.v };
    let passed = seconds(before.t, last.t);
    if passed == 0.0 {
        return None;
    }
    Some(if rate { change / passed } else { change })
}

/// Slope per second, and the value at `at`, by least squares.
fn regression(samples: &[Sample], at: i64) -> (f64, f64) {
    let n = samples.len() as f64;
    let first = samples.first().map_or(0.0, |s| s.v);
    if samples.iter().all(|s| s.v == first) {
        return match first.is_infinite() {
            true => (f64::NAN, f64::NAN),
            false => (0.0, first),
        };
    }
    let x = || samples.iter().map(|s| seconds(at, s.t));
    let y = || samples.iter().map(|s| s.v);
    let (sum_x, sum_y) = (sum(x()), sum(y()));
    let sum_xy = sum(x().zip(y()).map(|(x, y)| x * y));
    let sum_xx = sum(x().map(|x| x * x));
    let covariance = sum_xy - sum_x * sum_y / n;
    let variance = sum_xx - sum_x * sum_x / n;
    let slope = covariance / variance;
    (slope, sum_y / n - slope * sum_x / n)
}

/// Adds with compensation (Neumaier), as Prometheus does.
pub(super) fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = total + value;
        lost += match next.is_infinite() {
            true => 0.0,
            false if total.abs() >= value.abs() => (total - next) + value,
            false => (value - next) + total,
        };
        total = next;
    }
    total + lost
}

/// Population variance (Welford).
pub(super) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - mean;
        mean += delta / count;
        squares += delta * (value - mean);
    }
    squares / count
}
