//! Distributions of times, in Envoy's resolution: two significant digits (a log-linear histogram, as libcircllhist's).
//!
//! One writer each, as counters; nothing is allocated before the first value, and then only for the powers of ten that
//! occur. [`Summary`] is what a scrape makes of all workers' histograms of one name.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::stats::Count;

/// Powers of ten that are told apart; what is beyond counts as the highest.
const DECADES: usize = 12;
/// Two significant digits: 10 to 99.
const STEPS: usize = 90;
/// Envoy's quantiles.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];
/// Envoy's buckets in Prometheus' format.
pub const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A distribution of whole numbers with a single writer.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Bins>>);

#[derive(Debug, Default)]
struct Bins {
    zero: Count,
    sum: AtomicU64,
    decades: [OnceLock<Box<[Count; STEPS]>>; DECADES],
}

impl Histogram {
    /// Adds a duration in milliseconds, cut off.
    pub fn record(&self, duration: Duration) {
        self.add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    /// Adds a value.
    pub fn add(&self, value: u64) {
        let bins = self.0.get_or_init(Box::default);
        let sum = bins.sum.load(Ordering::Relaxed).wrapping_add(value);
        bins.sum.store(sum, Ordering::Relaxed);
        let Some((decade, step)) = place(value) else {
            return bins.zero.inc();
        };
        let decade = bins.decades.get(decade);
        let steps =
            decade.map(|steps| steps.get_or_init(|| Box::new([const { Count::new() }; STEPS])));
        if let Some(count) = steps.and_then(|steps| steps.get(step)) {
            count.inc();
        }
    }
}

/// The power of ten and the step within it; `None` for zero.
fn place(value: u64) -> Option<(usize, usize)> {
    let decade = value.checked_ilog10()? as usize;
    let digits = match decade {
        0 => value * 10,
        _ => value / 10_u64.pow(u32::try_from(decade - 1).unwrap_or(0)),
    };
    let step = usize::try_from(digits.saturating_sub(10)).unwrap_or(STEPS);
    match decade < DECADES {
        true => Some((decade, step.min(STEPS - 1))),
        false => Some((DECADES - 1, STEPS - 1)),
    }
}

/// The distribution of all workers together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// How often each bin was hit, by its place in order; 0 is the value zero.
    bins: BTreeMap<usize, u64>,
    count: u64,
    sum: u64,
}

/// Lower end and width of a bin.
fn range(bin: usize) -> (f64, f64) {
    let Some(bin) = bin.checked_sub(1) else {
        return (0.0, 0.0);
    };
    let exponent = i32::try_from(bin / STEPS).unwrap_or(0) - 1;
    let width = 10_f64.powi(exponent);
    ((bin % STEPS + 10) as f64 * width, width)
}

impl Summary {
    /// True while nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a worker's part.
    pub fn add(&mut self, part: &Histogram) {
        let Some(bins) = part.0.get() else { return };
        self.sum = self.sum.wrapping_add(bins.sum.load(Ordering::Relaxed));
        self.add_bin(0, bins.zero.get());
        for (decade, steps) in bins.decades.iter().enumerate() {
            for (step, count) in steps
                .get()
                .into_iter()
                .flat_map(|steps| steps.iter().enumerate())
            {
                self.add_bin(1 + decade * STEPS + step, count.get());
            }
        }
    }

    fn add_bin(&mut self, bin: usize, count: u64) {
        if count > 0 {
            *self.bins.entry(bin).or_default() += count;
            self.count += count;
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What they add up to.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The value at each of [`QUANTILES`], between the ends of its bin as it stands in the bin; `None` without values.
    pub fn quantiles(&self) -> Option<[f64; QUANTILES.len()]> {
        (self.count > 0).then(|| QUANTILES.map(|quantile| self.at(quantile)))
    }

    fn at(&self, quantile: f64) -> f64 {
        let target = quantile * self.count as f64;
        let mut below = 0.0;
        let mut end = 0.0;
        for (bin, count) in &self.bins {
            let (low, width) = range(*bin);
            let count = *count as f64;
            if below + count >= target {
                return low + width * (target - below) / count;
            }
            below += count;
            end = low + width;
        }
        end
    }

    /// How many values lie in bins that end at or below each of [`BUCKETS`].
    pub fn buckets(&self) -> [u64; BUCKETS.len()] {
        BUCKETS.map(|bound| {
            let bins = self.bins.iter().filter(|(bin, _)| {
                let (low, width) = range(**bin);
                // Bins end where others begin: no bound lies within one, but for the error of the arithmetic.
                low + width <= bound * (1.0 + 1e-9)
            });
            bins.map(|(_, count)| count).sum()
        })
    }

    /// As `/stats` prints it: each quantile with the last interval's value, which is not kept, and the one of all values.
    pub fn text(&self) -> String {
        let Some(values) = self.quantiles() else {
            return "No recorded values".to_owned();
        };
        let mut out = String::new();
        for (quantile, value) in QUANTILES.iter().zip(values) {
            let space = if out.is_empty() { "" } else { " " };
            let _ = write!(out, "{space}P{}(nan,{})", percent(*quantile), short(value));
        }
        out
    }
}

/// `99.5` of `0.995`.
pub fn percent(quantile: f64) -> f64 {
    (quantile * 1000.0).round() / 10.0
}

/// Six significant digits, as C's `%g`.
pub fn short(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{BUCKETS, Histogram, Summary};

    fn summary(values: &[u64]) -> Summary {
        let histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        let mut out = Summary::default();
        out.add(&histogram);
        out
    }

    #[test]
    fn nothing_is_nothing() {
        let none = summary(&[]);
        assert_eq!((none.count(), none.quantiles()), (0, None));
        assert_eq!(none.text(), "No recorded values");
        assert_eq!(
            summary(&[1]).text(),
            "P0(nan,1) P25(nan,1.025) P50(nan,1.05) P75(nan,1.075) P90(nan,1.09) P95(nan,1.095) P99(nan,1.099) P99.5(nan,1.0995) P99.9(nan,1.0999) P100(nan,1.1)"
        );
    }

    proptest! {
        /// Beside the sorted list: quantiles are right to two digits, sums exactly, buckets to the bin.
        #[test]
        fn it_is_near_what_a_list_says(mut values in vec(0_u64..5_000_000, 1..200), one in vec(0_u64..40, 1..50)) {
            values.extend(one);
            let summary = summary(&values);
            values.sort_unstable();
            prop_assert_eq!(summary.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(summary.count(), values.len() as u64);
            let median = summary.quantiles().unwrap()[2];
            let at = (values.len() as f64 * 0.5).ceil() as usize;
            let exact = values[at.max(1) - 1] as f64;
            prop_assert!((median - exact).abs() <= exact * 0.1 + 1e-6, "{} {}", median, exact);
            for (bound, count) in BUCKETS.iter().zip(summary.buckets()) {
                let below = values.iter().filter(|value| (**value as f64) < *bound).count() as u64;
                prop_assert_eq!(count, below, "{}", bound);
            }
        }
    }
}
