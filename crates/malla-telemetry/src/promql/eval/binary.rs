//! Binary operators: between numbers, between a number and a vector, and between vectors that are
//! matched by their labels.

use std::collections::HashMap;

use crate::metrics::{Labels, NAME};
use crate::promql::ast::{Binary, BinaryOp, Cardinality, Matching};
use crate::promql::eval::{Eval, Grid, NONE, Result, Series, Value, is_none, unique, wrong};

impl Eval<'_> {
    pub(super) fn binary(&self, binary: &Binary, grid: Grid) -> Result<Value> {
        let left = self.eval(&binary.left, grid)?;
        let right = self.eval(&binary.right, grid)?;
        Ok(match (left, right) {
            (Value::Scalar(left), Value::Scalar(right)) => {
                let values = left.iter().zip(&right);
                Value::Scalar(values.map(|(a, b)| number(binary.op, *a, *b)).collect())
            }
            (Value::Vector(series), Value::Scalar(scalar)) => {
                Value::Vector(with_scalar(binary, series, &scalar, false)?)
            }
            (Value::Scalar(scalar), Value::Vector(series)) => {
                Value::Vector(with_scalar(binary, series, &scalar, true)?)
            }
            (Value::Vector(left), Value::Vector(right)) if binary.op.is_set() => {
                Value::Vector(sets(binary, left, right, grid)?)
            }
            (Value::Vector(left), Value::Vector(right)) => {
                Value::Vector(self.matched(binary, left, right, grid)?)
            }
            _ => return wrong("a string cannot be calculated with"),
        })
    }

    fn matched(
        &self,
        binary: &Binary,
        left: Vec<Series>,
        right: Vec<Series>,
        grid: Grid,
    ) -> Result<Vec<Series>> {
        let swapped = binary.matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped {
            (right, left)
        } else {
            (left, right)
        };
        let one_side = if swapped { "left" } else { "right" };
        let signature = |series: &Series| signature(&series.labels, &binary.matching);
        let mut ones: HashMap<Labels, Vec<Series>, foldhash::fast::RandomState> =
            HashMap::default();
        for series in one {
            ones.entry(signature(&series)).or_default().push(series);
        }
        // Where the other side is empty, nothing can match and so nothing can match twice.
        let lively = |step: &usize| {
            let mut points = many.iter().filter_map(|s| s.points.get(*step));
            points.any(|v| !is_none(*v))
        };
        let steps: Vec<usize> = (0..grid.count).filter(lively).collect();
        for (group, series) in &ones {
            check_single(group, series, one_side, &steps)?;
        }
        let mut taken: HashMap<Labels, Vec<bool>, foldhash::fast::RandomState> = HashMap::default();
        let mut found = Vec::new();
        for series in many {
            let group = signature(&series);
            let Some(partners) = ones.get(&group) else {
                continue;
            };
            self.charge(grid.count)?;
            let taken = match binary.matching.cardinality {
                Cardinality::OneToOne => Some(
                    taken
                        .entry(group)
                        .or_insert_with(|| vec![false; grid.count]),
                ),
                _ => None,
            };
            pair(binary, &series, partners, swapped, taken, &mut found)?;
        }
        found.retain(|series| series.points.iter().any(|v| !is_none(*v)));
        unique(found).or_else(|_| {
            wrong("multiple matches for labels: grouping labels must ensure unique matches")
        })
    }
}

/// Calculates one series of the "many" side with its partners, step by step.
fn pair(
    binary: &Binary,
    many: &Series,
    partners: &[Series],
    swapped: bool,
    mut taken: Option<&mut Vec<bool>>,
    found: &mut Vec<Series>,
) -> Result<()> {
    for partner in partners {
        let labels = result_labels(binary, &many.labels, &partner.labels);
        let mut points = Vec::with_capacity(many.points.len());
        for (step, (a, b)) in many.points.iter().zip(&partner.points).enumerate() {
            if is_none(*a) || is_none(*b) {
                points.push(NONE);
                continue;
            }
            let (left, right) = if swapped { (*b, *a) } else { (*a, *b) };
            let v = between(binary, left, right);
            points.push(v);
            let before = taken.as_mut().and_then(|t| t.get_mut(step));
            if let Some(before) = before
                && !is_none(v)
                && std::mem::replace(before, true)
            {
                return wrong(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                );
            }
        }
        found.push(Series { labels, points });
    }
    Ok(())
}

fn check_single(group: &Labels, series: &[Series], side: &str, steps: &[usize]) -> Result<()> {
    if series.len() < 2 {
        return Ok(());
    }
    for step in steps {
        let mut here = series
            .iter()
            .filter(|s| s.points.get(*step).is_some_and(|v| !is_none(*v)));
        if let (Some(first), Some(second)) = (here.next(), here.next()) {
            return wrong(format!(
                "found duplicate series for the match group {group} on the {side} hand-side of the \
                 operation: [{}, {}];many-to-many matching not allowed: matching labels must be \
                 unique on one side",
                first.labels, second.labels
            ));
        }
    }
    Ok(())
}

/// What two series must share to be calculated with each other.
fn signature(labels: &Labels, matching: &Matching) -> Labels {
    let named = |name: &str| matching.labels.iter().any(|label| label == name);
    match matching.on {
        true => labels.filter(named),
        false => labels.filter(|name| name != NAME && !named(name)),
    }
}

fn result_labels(binary: &Binary, many: &Labels, one: &Labels) -> Labels {
    let matching = &binary.matching;
    let mut labels = many.clone();
    if !binary.op.is_comparison() || binary.as_bool {
        labels = labels.without_name();
    }
    if matching.cardinality == Cardinality::OneToOne {
        let named = |name: &str| matching.labels.iter().any(|label| label == name);
        labels = labels.filter(|name| named(name) == matching.on);
    }
    for name in &matching.include {
        labels = labels.with(name, one.get(name));
    }
    labels
}

/// The operation on two values of vectors: a comparison keeps or drops the left one.
fn between(binary: &Binary, left: f64, right: f64) -> f64 {
    let v = number(binary.op, left, right);
    if !binary.op.is_comparison() || binary.as_bool {
        return v;
    }
    if v == 1.0 { left } else { NONE }
}

fn number(op: BinaryOp, a: f64, b: f64) -> f64 {
    let truth = |yes: bool| if yes { 1.0 } else { 0.0 };
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Atan2 => a.atan2(b),
        BinaryOp::Equal => truth(a == b),
        BinaryOp::NotEqual => truth(a != b),
        BinaryOp::Greater => truth(a > b),
        BinaryOp::Less => truth(a < b),
        BinaryOp::GreaterEqual => truth(a >= b),
        BinaryOp::LessEqual => truth(a <= b),
        // The parser admits these between vectors only.
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => f64::NAN,
    }
}

fn with_scalar(
    binary: &Binary,
    series: Vec<Series>,
    scalar: &[f64],
    scalar_first: bool,
) -> Result<Vec<Series>> {
    let filters = binary.op.is_comparison() && !binary.as_bool;
    let changed = series.into_iter().map(|mut series| {
        for (v, scalar) in series.points.iter_mut().zip(scalar) {
            if is_none(*v) {
                continue;
            }
            let result = match scalar_first {
                true => number(binary.op, *scalar, *v),
                false => number(binary.op, *v, *scalar),
            };
            // A comparison keeps the vector's value, whichever side it stands on.
            *v = match (filters, result == 1.0) {
                (false, _) => result,
                (true, true) => *v,
                (true, false) => NONE,
            };
        }
        if !filters {
            series.labels = series.labels.without_name();
        }
        series
    });
    let kept = changed.filter(|s| s.points.iter().any(|v| !is_none(*v)));
    unique(kept.collect())
}

/// `and`, `or` and `unless`: series stay or go by what the other side has at the same step.
fn sets(binary: &Binary, left: Vec<Series>, right: Vec<Series>, grid: Grid) -> Result<Vec<Series>> {
    type Presence = HashMap<Labels, Vec<bool>, foldhash::fast::RandomState>;
    let presence = |side: &[Series]| {
        let mut found = Presence::default();
        for series in side {
            let group = signature(&series.labels, &binary.matching);
            let here = found
                .entry(group)
                .or_insert_with(|| vec![false; grid.count]);
            for (here, v) in here.iter_mut().zip(&series.points) {
                *here |= !is_none(*v);
            }
        }
        found
    };
    let keep = |side: Vec<Series>, other: &Presence, wanted: bool| {
        let mut kept = Vec::new();
        for mut series in side {
            let group = signature(&series.labels, &binary.matching);
            match other.get(&group) {
                Some(here) => {
                    let points = series.points.iter_mut().zip(here);
                    points
                        .filter(|(_, here)| **here != wanted)
                        .for_each(|(v, _)| *v = NONE);
                }
                None if wanted => continue,
                None => {}
            }
            if series.points.iter().any(|v| !is_none(*v)) {
                kept.push(series);
            }
        }
        kept
    };
    Ok(match binary.op {
        BinaryOp::And => keep(left, &presence(&right), true),
        BinaryOp::Unless => keep(left, &presence(&right), false),
        _ => {
            let mut all = left;
            let others = keep(right, &presence(&all), false);
            all.extend(others);
            unique(all)?
        }
    })
}
