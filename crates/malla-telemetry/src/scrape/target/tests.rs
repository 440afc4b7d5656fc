//! Rounds of expositions, and the rows that come of them.

use super::*;
use crate::metrics::is_stale;

fn target() -> Target {
    Target::pod("http://10.0.0.1:15020/stats", "istio", "base", "web-1")
}

/// Rows of the exposition as `name{labels} value`, without the target's own labels and series.
fn shown(scraped: &Scraped) -> Vec<String> {
    let own = ["job", "namespace", "pod", "instance"];
    scraped
        .rows
        .iter()
        .filter(|row| !row.labels.name().starts_with("scrape_"))
        .map(|row| {
            let labels = row.labels.filter(|name| !own.contains(&name));
            let v = row.sample.v;
            match is_stale(v) {
                true => format!("{labels} stale"),
                false => format!("{labels} {v}"),
            }
        })
        .collect()
}

fn round(state: &mut TargetState, at: i64, body: Result<&str, &str>) -> Scraped {
    let fetch = Fetch {
        at,
        seconds: 0.25,
        body,
    };
    let scraped = state.take(fetch, &Metadata::default());
    state.remember(&scraped);
    scraped
}

#[test]
fn series_come_and_go() {
    let mut state = TargetState::new(&target(), 100);
    let first = round(&mut state, 1, Ok("a 1\nb{c=\"d\"} 2\n"));
    assert_eq!(shown(&first), ["a{} 1", "b{c=\"d\"} 2", "up{} 1"]);
    let second = round(&mut state, 2, Ok("a 3\n"));
    assert_eq!(shown(&second), ["a{} 3", "b{c=\"d\"} stale", "up{} 1"]);
    let third = round(&mut state, 3, Ok("a 3\n"));
    assert_eq!(shown(&third), ["a{} 3", "up{} 1"]);
    let failed = round(&mut state, 4, Err("refused"));
    assert_eq!(shown(&failed), ["a{} stale", "up{} 0"]);
    let again = round(&mut state, 5, Err("refused"));
    assert_eq!(shown(&again), ["up{} 0"]);
    let back = round(&mut state, 6, Ok("a 4"));
    assert_eq!(shown(&back), ["a{} 4", "up{} 1"]);
    assert_eq!(state.end(7).len(), 1 + REPORTS.len());
}

#[test]
fn a_bad_body_counts_as_a_failure_as_a_whole() {
    let mut state = TargetState::new(&target(), 3);
    round(&mut state, 1, Ok("a 1\n"));
    let bad = round(&mut state, 2, Ok("a 2\nb{ 3\n"));
    assert_eq!(shown(&bad), ["a{} stale", "up{} 0"]);
    assert_eq!(
        bad.error.as_deref(),
        Some("line 2: the labels are not closed")
    );
    let many = round(&mut state, 3, Ok("a 1\nb 1\nc 1\nd 1\n"));
    assert_eq!(many.error.as_deref(), Some("more than 3 samples"));
}

#[test]
fn the_target_owns_its_labels() {
    let mut state = TargetState::new(&target(), 100);
    let scraped = round(
        &mut state,
        1,
        Ok("a{pod=\"other\",instance=\"x\",app=\"web\"} 1\n"),
    );
    assert_eq!(
        scraped.rows[0].labels.to_string(),
        "a{app=\"web\", exported_instance=\"x\", exported_pod=\"other\", \
         instance=\"10.0.0.1:15020\", job=\"istio\", namespace=\"base\", pod=\"web-1\"}"
    );
}

#[test]
fn a_series_with_its_own_time_is_not_ended() {
    let mut state = TargetState::new(&target(), 100);
    let first = round(&mut state, 5_000, Ok("a 1 4000\n"));
    assert_eq!(first.rows[0].sample.t, 4_000);
    assert_eq!(shown(&round(&mut state, 6_000, Ok(""))), ["up{} 1"]);
}
