//! What a proxy has counted, and what clients and families wait for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::case::Act;
use crate::lab::Side;
use crate::upstream::Upstream;
use crate::wire;

/// Between two looks.
pub(crate) const TURN: Duration = Duration::from_millis(5);

pub(crate) fn rest() {
    std::thread::sleep(TURN);
}

/// What a client may wait for beside its connection.
pub(crate) struct Around<'a> {
    pub(crate) side: &'a Side,
    pub(crate) upstreams: &'a [Upstream],
    pub(crate) patience: Duration,
}

impl Around<'_> {
    /// Waits as an act says; `false` if it says nothing of the kind. Meanwhile it does `turn`
    /// again and again; what does not come shows in what follows.
    pub(crate) fn wait(&self, act: &Act, mut turn: impl FnMut()) -> bool {
        if let Some(count) = act.seen {
            let seen = || self.upstreams.iter().map(|up| up.seen().len());
            wait(self.patience, &mut turn, || seen().sum::<usize>() >= count);
        }
        for (name, value) in &act.until {
            let name = std::slice::from_ref(name);
            wait(self.patience, &mut turn, || {
                stats(self.side, name).values().any(|now| now == value)
            });
        }
        act.seen.is_some() || !act.until.is_empty()
    }
}

/// Whether it has become true in time.
pub(crate) fn wait(
    patience: Duration,
    mut turn: impl FnMut(),
    condition: impl Fn() -> bool,
) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        turn();
    }
    true
}

/// By name, those that a whole expression of `names` matches.
pub(crate) fn stats(side: &Side, names: &[String]) -> BTreeMap<String, i64> {
    if names.is_empty() {
        return BTreeMap::new();
    }
    let wanted: Vec<Regex> = names
        .iter()
        .map(|name| Regex::new(&format!("^(?:{name})$")).expect("a name is an expression"))
        .collect();
    let request = "GET /stats HTTP/1.1\r\nhost: admin\r\n\r\n";
    let answer = wire::exchange(side.address("admin"), request);
    let lines = answer.body.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| wanted.iter().any(|wanted| wanted.is_match(name)))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// What moved.
pub(crate) fn changes(
    before: &BTreeMap<String, i64>,
    after: &BTreeMap<String, i64>,
) -> BTreeMap<String, i64> {
    let by = |(name, now): (&String, &i64)| {
        let by = now - before.get(name).copied().unwrap_or(0);
        (by != 0).then(|| (name.clone(), by))
    };
    after.iter().filter_map(by).collect()
}
