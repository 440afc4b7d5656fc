//! The store against a naive one, against kills at every byte, and against clocks that lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::{Just, Strategy, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::*;
use crate::metrics::matcher::MatchOp;

const START: i64 = 1_700_000_000_000;

fn labels(series: u8) -> Labels {
    Labels::new([
        ("__name__", "m".to_owned()),
        ("series", series.to_string()),
        (
            "odd",
            if series % 2 == 1 {
                "yes".into()
            } else {
                String::new()
            },
        ),
    ])
}

fn row(series: u8, t: i64, v: f64) -> Row {
    Row {
        labels: labels(series),
        series: None,
        sample: Sample { t: START + t, v },
    }
}

fn open(folder: &Path) -> MetricStore {
    MetricStore::open(folder, MetricsConfig::default()).unwrap()
}

type Naive = BTreeMap<String, Vec<(i64, u64)>>;

fn contents(store: &MetricStore, matchers: &[Matcher], min: i64, max: i64) -> Naive {
    let found = store.select(matchers, min, max, u64::MAX).unwrap();
    let series = found.into_iter().map(|s| {
        let samples = s.samples.iter().map(|s| (s.t - START, s.v.to_bits()));
        (s.labels.to_string(), samples.collect())
    });
    series.collect()
}

fn all(store: &MetricStore) -> Naive {
    contents(store, &[], i64::MIN, i64::MAX)
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, i64, f64)>),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![
        Just(0.0),
        Just(-0.0),
        -5.0..5.0,
        Just(f64::from_bits(STALE_BITS))
    ];
    let sample = (0_u8..6, -3_i64..20, value);
    let append = prop::collection::vec(sample, 1..12).prop_map(Step::Append);
    let step = prop_oneof![8 => append, 1 => Just(Step::Flush), 1 => Just(Step::Reopen)];
    prop::collection::vec(step, 1..60)
}

const STALE_BITS: u64 = crate::metrics::chunk::STALE;

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]
    #[test]
    fn agrees_with_a_naive_store(steps in steps(), min in 0_i64..400, length in 0_i64..400) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let mut naive = Naive::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Append(samples) => {
                    now += 10;
                    let mut rows: Vec<Row> =
                        samples.iter().map(|(s, t, v)| row(*s, now + t, *v)).collect();
                    store.append(START + now, &mut rows);
                    for (s, t, v) in samples {
                        let kept = naive.entry(labels(s).to_string()).or_default();
                        if kept.last().is_none_or(|(last, _)| *last < now + t) {
                            kept.push((now + t, v.to_bits()));
                        }
                    }
                }
                Step::Flush => {
                    store.flush().unwrap();
                    now += 30;
                }
                // A store that has forgotten a series takes its older samples again, so time moves.
                Step::Reopen => {
                    drop(store);
                    store = open(folder.path());
                    now += 30;
                }
            }
        }
        prop_assert_eq!(all(&store), naive.clone());
        let (from, to) = (START + min, START + min + length);
        let matcher = Matcher::new("odd", MatchOp::NotEqual, "yes").unwrap();
        let mut part = naive;
        part.retain(|name, _| !name.contains("yes"));
        for samples in part.values_mut() {
            samples.retain(|(t, _)| *t >= min && *t <= min + length);
        }
        part.retain(|_, samples| !samples.is_empty());
        prop_assert_eq!(contents(&store, &[matcher], from, to), part);
    }
}

#[test]
fn a_kill_at_any_byte_leaves_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let mut states = vec![Naive::new()];
    {
        let store = open(folder.path());
        for batch in 0..6_i64 {
            let mut rows: Vec<Row> = (0..3)
                .map(|s| row(s, batch * 100, batch as f64 + f64::from(s) / 4.0))
                .collect();
            store.append(START + batch * 100, &mut rows);
            states.push(all(&store));
        }
    }
    let (_, path) = wal::segments(&folder.path().join("wal"))
        .unwrap()
        .pop()
        .unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in 0..=bytes.len() {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("wal")).unwrap();
        let name = path.file_name().unwrap();
        fs::write(copy.path().join("wal").join(name), &bytes[..length]).unwrap();
        let store = open(copy.path());
        let found = all(&store);
        assert!(states.contains(&found), "{length} bytes: {found:?}");
        // And it goes on from there.
        store.append(START + 900, &mut [row(0, 900, 7.0)]);
        drop(store);
        let again = all(&open(copy.path()));
        assert_eq!(
            again[&labels(0).to_string()].last(),
            Some(&(900, 7.0_f64.to_bits()))
        );
    }
    assert_eq!(states.len(), 7);
}

#[test]
fn a_kill_between_block_and_cut_counts_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.append(START, &mut [row(1, 0, 1.0), row(2, 0, 2.0)]);
    let (_, segment) = wal::segments(&folder.path().join("wal"))
        .unwrap()
        .pop()
        .unwrap();
    let saved = fs::read(&segment).unwrap();
    store.flush().unwrap();
    let before = all(&store);
    drop(store);
    fs::write(&segment, saved).unwrap();
    fs::write(folder.path().join("blocks/0000000000000009.tmp"), "half").unwrap();
    let store = open(folder.path());
    assert_eq!(all(&store), before);
    assert_eq!(store.stats().head_samples, 0);
    assert!(!segment.exists());
}

#[test]
fn a_damaged_block_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.append(START, &mut [row(1, 0, 1.0)]);
    store.flush().unwrap();
    store.append(START + 10, &mut [row(1, 10, 2.0)]);
    store.flush().unwrap();
    drop(store);
    let path = folder.path().join("blocks/0000000000000001.block");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let store = open(folder.path());
        let found = all(&store);
        let samples = &found[&labels(1).to_string()];
        assert_eq!(samples.last(), Some(&(10, 2.0_f64.to_bits())));
        assert!(at < 8 || store.stats().corrupt > 0, "byte {at}");
    }
}

#[test]
fn series_beyond_the_limit_are_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let config = MetricsConfig {
        max_series: 2,
        ..MetricsConfig::default()
    };
    let store = MetricStore::open(folder.path(), config).unwrap();
    let done = store.append(START, &mut [row(1, 0, 1.0), row(2, 0, 1.0), row(3, 0, 1.0)]);
    assert_eq!((done.accepted, done.over_limit), (2, 1));
    assert_eq!(store.stats().over_limit, 1);
    // Silent series make room after two blocks.
    for t in 1..=3 {
        store.append(START + t, &mut [row(1, t, 1.0)]);
        store.flush().unwrap();
    }
    assert_eq!(store.append(START + 4, &mut [row(3, 4, 1.0)]).accepted, 1);
}

#[test]
fn a_reference_survives_renumbering() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut rows = vec![row(1, 0, 1.0), row(2, 0, 2.0)];
    store.append(START, &mut rows);
    let mut kept = rows.pop().unwrap();
    for t in 1..=4 {
        kept.sample.t = START + t;
        store.append(START + t, std::slice::from_mut(&mut kept));
        store.flush().unwrap();
    }
    assert_eq!(store.stats().series, 1);
    let found = all(&store);
    assert_eq!(found[&labels(1).to_string()].len(), 1);
    assert_eq!(found[&labels(2).to_string()].len(), 5);
}

#[test]
fn a_clock_that_jumps_costs_only_the_jump() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let year = 365 * 24 * 3_600_000;
    store.append(START, &mut [row(1, 0, 1.0)]);
    store.append(START + year, &mut [row(1, year, 2.0)]);
    let done = store.append(START + 10_000, &mut [row(1, 10_000, 3.0)]);
    assert_eq!(done.accepted, 1);
    assert_eq!(store.stats().clock_dropped, 1);
    let want = vec![(0, 1.0_f64.to_bits()), (10_000, 3.0_f64.to_bits())];
    assert_eq!(all(&store)[&labels(1).to_string()], want);
    drop(store);
    assert_eq!(all(&open(folder.path()))[&labels(1).to_string()], want);
}

#[test]
fn a_jump_that_reached_a_block_does_not_stop_the_present() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let year = 365 * 24 * 3_600_000;
    store.append(START + year, &mut [row(1, year, 2.0)]);
    store.flush().unwrap();
    assert_eq!(store.append(START, &mut [row(1, 0, 1.0)]).accepted, 1);
    let found = &all(&store)[&labels(1).to_string()];
    assert_eq!(found.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [0, year]);
    // And a clock nobody trusts deletes nothing.
    store.retain(None).unwrap();
    assert_eq!(store.stats().blocks, 1);
}

#[test]
fn foreign_times_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let done = store.append(START, &mut [row(1, 61_000, 1.0), row(1, -3_600_001, 1.0)]);
    assert_eq!((done.too_new, done.too_old, done.accepted), (1, 1, 0));
}

#[test]
fn age_and_size_bound_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let config = MetricsConfig {
        retention: Duration::from_secs(100),
        ..MetricsConfig::default()
    };
    let store = MetricStore::open(folder.path(), config).unwrap();
    for t in [0, 50_000, 120_000] {
        store.append(START + t, &mut [row(1, t, 1.0)]);
        store.flush().unwrap();
    }
    store.retain(Some(START + 120_000)).unwrap();
    assert_eq!(store.stats().blocks, 2);
    drop(store);
    let config = MetricsConfig {
        max_bytes: 200,
        ..MetricsConfig::default()
    };
    let store = MetricStore::open(folder.path(), config).unwrap();
    store.retain(None).unwrap();
    let found = &all(&store)[&labels(1).to_string()];
    assert_eq!(found.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [120_000]);
    assert_eq!(store.stats().expired_blocks, 1);
}

#[test]
fn two_processes_do_not_share_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    let second = MetricStore::open(folder.path(), MetricsConfig::default());
    assert!(matches!(second, Err(StoreError::InUse { .. })));
}

#[test]
fn a_query_too_large_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.append(START, &mut [row(1, 0, 1.0), row(2, 0, 1.0)]);
    let error = store.select(&[], 0, i64::MAX, 1).unwrap_err();
    assert!(error.to_string().contains("more than 1 samples"), "{error}");
}

#[test]
fn a_disk_that_refuses_blocks_costs_nothing_until_memory_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let config = MetricsConfig {
        max_head_bytes: 40,
        ..MetricsConfig::default()
    };
    let store = MetricStore::open(folder.path(), config).unwrap();
    let blocks = folder.path().join("blocks");
    fs::remove_dir(&blocks).unwrap();
    store.append(START, &mut [row(1, 0, 1.0)]);
    assert!(store.flush().is_err());
    store.append(START + 10, &mut [row(1, 10, 2.0)]);
    assert_eq!(all(&store)[&labels(1).to_string()].len(), 2);
    fs::create_dir(&blocks).unwrap();
    assert!(store.flush().unwrap());
    assert_eq!(all(&store)[&labels(1).to_string()].len(), 2);
    fs::rename(&blocks, folder.path().join("away")).unwrap();
    for t in 1..=10 {
        store.append(START + t * 100, &mut [row(1, t * 100, 3.0)]);
        store.flush().unwrap_err();
    }
    let stats = store.stats();
    assert!(
        stats.lost > 0 && stats.head_bytes <= 40 && stats.flush_failures == 11,
        "{stats:?}"
    );
}
