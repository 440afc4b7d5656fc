//! Functions: which arguments they evaluate, and what they do with them.

use crate::metrics::{Labels, MatchOp, NAME};
use crate::promql::ast::{Call, Expr, Kind};
use crate::promql::eval::aggregate::nan_first;
use crate::promql::eval::{
    Eval, Grid, NONE, Result, Series, Value, calendar, histogram, is_none, over_time, unique, wrong,
};

impl Eval<'_> {
    pub(super) fn call(&self, call: &Call, grid: Grid) -> Result<Value> {
        let name = call.function.name;
        let vector = |at| self.vector(argument(call, at)?, grid);
        let series = match name {
            "time" => {
                return Ok(Value::Scalar(
                    grid.times().map(|t| t as f64 / 1000.0).collect(),
                ));
            }
            "pi" => return Ok(Value::Scalar(vec![std::f64::consts::PI; grid.count])),
            "scalar" => return Ok(Value::Scalar(only(&vector(0)?, grid))),
            "vector" => vec![Series {
                labels: Labels::default(),
                points: self.scalar(argument(call, 0)?, grid)?,
            }],
            "timestamp" => self.timestamp(argument(call, 0)?, grid)?,
            "absent" => vec![absent(argument(call, 0)?, &vector(0)?, grid)],
            "absent_over_time" => vec![self.absent_over_time(argument(call, 0)?, grid)?],
            "sort" | "sort_desc" => sort(vector(0)?, name == "sort_desc"),
            "histogram_quantile" => {
                let q = self.scalar(argument(call, 0)?, grid)?;
                histogram::quantiles(&q, vector(1)?)?
            }
            "label_replace" => self.label_replace(call, vector(0)?)?,
            "label_join" => self.label_join(call, vector(0)?)?,
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(call, vector(0)?, grid)?,
            "round" => self.round(call, vector(0)?, grid)?,
            _ if call.function.args.contains(&Kind::Matrix) => self.over_time(call, grid)?,
            _ => match by_value(name) {
                Some(f) => self.map(vector(0)?, f)?,
                None => self.calendar(call, grid)?,
            },
        };
        Ok(Value::Vector(series))
    }

    fn over_time(&self, call: &Call, grid: Grid) -> Result<Vec<Series>> {
        let name = call.function.name;
        let matrix = call.args.iter().find(|arg| arg.kind() == Kind::Matrix);
        let Some(matrix) = matrix else {
            return wrong(format!("{name}: a range vector is expected"));
        };
        let parameter = match call.args.iter().find(|arg| arg.kind() == Kind::Scalar) {
            Some(scalar) => self.scalar(scalar, grid)?,
            None => vec![f64::NAN; grid.count],
        };
        let ranged = self.ranged(matrix, grid)?;
        let dialect = self.config.dialect;
        let mut found = Vec::with_capacity(ranged.series.len());
        for series in &ranged.series {
            self.charge(0)?;
            let mut points = vec![NONE; grid.count];
            ranged.windows(series, grid, |window| {
                let parameter = parameter.get(window.step).copied().unwrap_or(f64::NAN);
                if let (Some(v), Some(point)) = (
                    over_time::apply(name, window, parameter, dialect),
                    points.get_mut(window.step),
                ) {
                    *point = v;
                }
            });
            if points.iter().all(|v| is_none(*v)) {
                continue;
            }
            let labels = match name {
                "last_over_time" => series.labels.clone(),
                _ => series.labels.without_name(),
            };
            found.push(Series { labels, points });
        }
        unique(found)
    }

    /// Of a selector, the times of its samples; of anything else, the times of the steps.
    fn timestamp(&self, expr: &Expr, grid: Grid) -> Result<Vec<Series>> {
        if let Expr::Selector(selector) = expr {
            let series = self.instants(selector, grid, |s| s.t as f64 / 1000.0)?;
            return self.map(series, |v| v);
        }
        let mut series = self.vector(expr, grid)?;
        for series in &mut series {
            for (v, t) in series.points.iter_mut().zip(grid.times()) {
                if !is_none(*v) {
                    *v = t as f64 / 1000.0;
                }
            }
        }
        self.map(series, |v| v)
    }

    fn absent_over_time(&self, expr: &Expr, grid: Grid) -> Result<Series> {
        let ranged = self.ranged(expr, grid)?;
        let mut points = vec![1.0; grid.count];
        for series in &ranged.series {
            ranged.windows(series, grid, |window| {
                if let Some(point) = points.get_mut(window.step) {
                    *point = NONE;
                }
            });
        }
        let labels = exact_labels(expr);
        Ok(Series { labels, points })
    }

    fn clamp(&self, call: &Call, series: Vec<Series>, grid: Grid) -> Result<Vec<Series>> {
        let first = self.scalar(argument(call, 1)?, grid)?;
        let all = |v: f64| vec![v; grid.count];
        let (least, most) = match call.function.name {
            "clamp_min" => (first, all(f64::INFINITY)),
            "clamp_max" => (all(f64::NEG_INFINITY), first),
            _ => (first, self.scalar(argument(call, 2)?, grid)?),
        };
        let changed = series.into_iter().map(|mut series| {
            let bounds = least.iter().zip(&most);
            for (v, (least, most)) in series.points.iter_mut().zip(bounds) {
                *v = match is_none(*v) || most < least {
                    true => NONE,
                    false if least.is_nan() || most.is_nan() => f64::NAN,
                    false if v.is_nan() => *v,
                    false => v.min(*most).max(*least),
                };
            }
            series.labels = series.labels.without_name();
            series
        });
        unique(changed.collect())
    }

    fn round(&self, call: &Call, series: Vec<Series>, grid: Grid) -> Result<Vec<Series>> {
        let to = match call.args.get(1) {
            Some(to) => self.scalar(to, grid)?,
            None => vec![1.0; grid.count],
        };
        let changed = series.into_iter().map(|mut series| {
            for (v, to) in series.points.iter_mut().zip(&to) {
                if !is_none(*v) {
                    let inverse = 1.0 / to;
                    *v = (*v * inverse + 0.5).floor() / inverse;
                }
            }
            series.labels = series.labels.without_name();
            series
        });
        unique(changed.collect())
    }

    fn calendar(&self, call: &Call, grid: Grid) -> Result<Vec<Series>> {
        let name = call.function.name;
        let series = match call.args.first() {
            Some(expr) => self.vector(expr, grid)?,
            None => vec![Series {
                labels: Labels::default(),
                points: grid.times().map(|t| t as f64 / 1000.0).collect(),
            }],
        };
        self.map(series, |v| calendar::part(name, v))
    }
}

fn argument(call: &Call, at: usize) -> Result<&Expr> {
    match call.args.get(at) {
        Some(expr) => Ok(expr),
        None => wrong(format!("{}: an argument is missing", call.function.name)),
    }
}

/// Functions of one value.
fn by_value(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => f64::to_degrees,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => f64::to_radians,
        "sgn" => |v| {
            if v == 0.0 || v.is_nan() {
                v
            } else {
                v.signum()
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

/// The value at the steps where there is exactly one.
fn only(series: &[Series], grid: Grid) -> Vec<f64> {
    let at = |step: usize| {
        let mut here = series
            .iter()
            .filter_map(|s| s.points.get(step))
            .filter(|v| !is_none(**v));
        match (here.next(), here.next()) {
            (Some(v), None) => *v,
            _ => f64::NAN,
        }
    };
    (0..grid.count).map(at).collect()
}

fn absent(expr: &Expr, series: &[Series], grid: Grid) -> Series {
    let here = |step: usize| {
        let mut points = series.iter().filter_map(|s| s.points.get(step));
        points.any(|v| !is_none(*v))
    };
    let points = (0..grid.count).map(|step| if here(step) { NONE } else { 1.0 });
    Series {
        labels: exact_labels(expr),
        points: points.collect(),
    }
}

/// The labels a missing series would certainly have had.
fn exact_labels(expr: &Expr) -> Labels {
    let (Expr::Selector(selector) | Expr::Range(selector, _)) = expr else {
        return Labels::default();
    };
    let count = |name: &str| {
        selector
            .matchers
            .iter()
            .filter(|m| m.name() == name)
            .count()
    };
    let certain = selector
        .matchers
        .iter()
        .filter(|m| m.op() == MatchOp::Equal && m.name() != NAME && count(m.name()) == 1);
    Labels::new(certain.map(|m| (m.name(), m.value())))
}

fn sort(mut series: Vec<Series>, descending: bool) -> Vec<Series> {
    let value = |s: &Series| s.points.first().copied().unwrap_or(NONE);
    series.sort_by(|a, b| {
        let (a, b) = (value(a), value(b));
        // NaN is last in both directions.
        a.is_nan().cmp(&b.is_nan()).then_with(|| match descending {
            true => nan_first(b, a),
            false => nan_first(a, b),
        })
    });
    series
}
