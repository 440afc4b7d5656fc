//! Quantiles of classic histograms.

use std::collections::HashMap;

use crate::metrics::{Labels, NAME};
use crate::promql::eval::{NONE, Result, Series, is_none, unique};

/// The quantile of cumulative buckets, `(upper bound, count)` in any order; NaN when they say
/// nothing (no `+Inf` bucket, no observation). Within a bucket values are taken to be spread evenly.
#[must_use]
pub fn bucket_quantile(q: f64, buckets: &mut Vec<(f64, f64)>) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    if buckets
        .last()
        .is_none_or(|(bound, _)| *bound != f64::INFINITY)
    {
        return f64::NAN;
    }
    // The same bound written twice ("1" and "1.0") counts together.
    buckets.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
    // Scrapes are not atomic: a bucket may lag behind a smaller one.
    let mut most = f64::NEG_INFINITY;
    for (_, count) in buckets.iter_mut() {
        match *count > most {
            true => most = *count,
            false => *count = most,
        }
    }
    let [.., (below, _), (_, total)] = buckets[..] else {
        return f64::NAN;
    };
    if total == 0.0 || total.is_nan() {
        return f64::NAN;
    }
    let rank = q * total;
    let finite = &buckets[..buckets.len() - 1];
    let Some(at) = finite.iter().position(|(_, count)| *count >= rank) else {
        return below;
    };
    let (end, count) = finite[at];
    let (start, before) = match at.checked_sub(1).and_then(|at| finite.get(at)) {
        Some(before) => *before,
        None if end <= 0.0 => return end,
        None => (0.0, 0.0),
    };
    start + (end - start) * ((rank - before) / (count - before))
}

/// `histogram_quantile(q, buckets)`.
pub(super) fn quantiles(q: &[f64], series: Vec<Series>) -> Result<Vec<Series>> {
    type Buckets = Vec<(f64, Vec<f64>)>;
    let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut groups: Vec<(Labels, Buckets)> = Vec::new();
    for series in series {
        let Ok(bound) = series.labels.get("le").parse::<f64>() else {
            // As Prometheus: a series without a usable bound isn't a bucket.
            continue;
        };
        let labels = series.labels.filter(|name| name != NAME && name != "le");
        let place = *places.entry(labels).or_insert_with_key(|labels| {
            groups.push((labels.clone(), Vec::new()));
            groups.len() - 1
        });
        if let Some((_, buckets)) = groups.get_mut(place) {
            buckets.push((bound, series.points));
        }
    }
    let mut here = Vec::new();
    let answered = groups.into_iter().map(|(labels, buckets)| {
        let points = q.iter().enumerate().map(|(step, q)| {
            here.clear();
            let counts = buckets
                .iter()
                .filter_map(|(b, p)| Some((*b, *p.get(step)?)));
            here.extend(counts.filter(|(_, count)| !is_none(*count)));
            match here.is_empty() {
                true => NONE,
                false => bucket_quantile(*q, &mut here),
            }
        });
        let points = points.collect();
        Series { labels, points }
    });
    unique(answered.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(q: f64, buckets: &[(f64, f64)], want: f64) {
        let got = bucket_quantile(q, &mut buckets.to_vec());
        assert!(
            got == want || (got.is_nan() && want.is_nan()),
            "{q} of {buckets:?}: {got}, not {want}"
        );
    }

    #[test]
    fn quantiles_of_buckets() {
        let inf = f64::INFINITY;
        let usual = [(1.0, 10.0), (2.0, 30.0), (inf, 40.0)];
        check(0.5, &usual, 1.5);
        check(0.1, &usual, 0.4);
        check(0.99, &usual, 2.0);
        check(-0.1, &usual, -inf);
        check(1.1, &usual, inf);
        check(f64::NAN, &usual, f64::NAN);
        check(0.5, &usual[..2], f64::NAN);
        check(0.5, &[(inf, 4.0)], f64::NAN);
        check(0.5, &[(1.0, 0.0), (inf, 0.0)], f64::NAN);
        check(0.5, &[(-1.0, 10.0), (inf, 10.0)], -1.0);
        check(0.5, &[(1.0, 10.0), (2.0, 8.0), (inf, 20.0)], 1.0);
        check(0.5, &[(1.0, 4.0), (1.0, 6.0), (inf, 20.0)], 1.0);
        check(0.5, &[], f64::NAN);
    }
}
