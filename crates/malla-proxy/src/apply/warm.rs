//! Warming: who waits for which resources, and for how long.
//!
//! A cluster or listener takes over from its former version once everything it names has come (or is known not to exist,
//! or was refused), or once `initial_fetch_timeout` has passed. Listeners wait for the first clusters besides, so that the
//! first request finds them.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use malla_xds_proto::type_url;
use tokio::time::Instant;

use super::refs::Need;

/// How the first fetch of one resource went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetch {
    since: Instant,
    /// `None` waits for ever.
    limit: Option<Duration>,
    done: bool,
}

impl Fetch {
    pub(super) fn new(now: Instant, limit: Option<Duration>) -> Self {
        Self {
            since: now,
            limit,
            done: false,
        }
    }

    pub(super) fn done(&mut self) {
        self.done = true;
    }

    /// Nobody waits for it any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.done || self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// When waiting ends although nothing comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.limit
            .filter(|_| !self.done)
            .and_then(|limit| self.since.checked_add(limit))
    }
}

type Key = (&'static str, Arc<str>);

/// The first fetches of everything that is named.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    known: HashMap<Key, Fetch, RandomState>,
}

impl Fetches {
    /// Follows what is named now. `present` tells what is there already. Returns what nothing names any more.
    pub(super) fn follow(
        &mut self,
        needs: &[Need],
        now: Instant,
        present: impl Fn(&Need) -> bool,
    ) -> Vec<Key> {
        let mut next = HashMap::with_capacity_and_hasher(needs.len(), RandomState::default());
        for need in needs {
            let key = (need.type_url, Arc::clone(&need.reference.name));
            let former = self.known.remove(&key);
            next.entry(key).or_insert_with(|| {
                former.unwrap_or_else(|| Fetch {
                    done: present(need),
                    ..Fetch::new(now, need.reference.source.first_fetch)
                })
            });
        }
        let gone = std::mem::replace(&mut self.known, next);
        gone.into_keys().collect()
    }

    /// A resource has come, was refused, or is known not to exist.
    pub(super) fn done(&mut self, type_url: &str, name: &Arc<str>) {
        let type_url = match type_url {
            type_url::ROUTE => type_url::ROUTE,
            type_url::ENDPOINTS => type_url::ENDPOINTS,
            type_url::SECRET => type_url::SECRET,
            type_url::EXTENSION_CONFIG => type_url::EXTENSION_CONFIG,
            _ => return,
        };
        if let Some(fetch) = self.known.get_mut(&(type_url, Arc::clone(name))) {
            fetch.done();
        }
    }

    /// Whether nobody has to wait for this. What is named, but not followed yet, has to be waited for.
    pub(super) fn is_over(&self, need: &Need, now: Instant) -> bool {
        let key = (need.type_url, Arc::clone(&need.reference.name));
        self.known.get(&key).is_some_and(|fetch| fetch.is_over(now))
    }

    /// When the next of these waits ends although nothing comes.
    pub(super) fn deadline(&self, needs: &[Need]) -> Option<Instant> {
        let fetch = |need: &Need| {
            self.known
                .get(&(need.type_url, Arc::clone(&need.reference.name)))
        };
        needs
            .iter()
            .filter_map(fetch)
            .filter_map(Fetch::deadline)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::{Fetches, Need};
    use malla_proxy_config::config_source::{ConfigSource, Reference};
    use malla_xds_proto::type_url::ROUTE;
    use std::time::Duration;
    use tokio::time::Instant;

    fn need(name: &str, first_fetch: Option<u64>) -> Need {
        Need {
            type_url: ROUTE,
            reference: Reference {
                name: name.into(),
                source: ConfigSource {
                    first_fetch: first_fetch.map(Duration::from_secs),
                    ..ConfigSource::ads()
                },
            },
        }
    }

    #[test]
    fn waiting_ends_with_an_answer_or_in_time() {
        let now = Instant::now();
        let needs = [need("a", Some(5)), need("b", None)];
        let mut fetches = Fetches::default();
        assert!(!fetches.is_over(&needs[0], now), "not even asked for");
        assert!(fetches.follow(&needs, now, |_| false).is_empty());
        assert!(!fetches.is_over(&needs[0], now));
        assert_eq!(fetches.deadline(&needs), Some(now + Duration::from_secs(5)));
        let later = now + Duration::from_secs(5);
        assert!(fetches.is_over(&needs[0], later));
        assert!(!fetches.is_over(&needs[1], later), "b waits for ever");
        fetches.done(ROUTE, &"b".into());
        assert!(fetches.is_over(&needs[1], later));
        // A second look at the same names starts no second wait; a name that is gone is told.
        let gone = fetches.follow(&needs[..1], later, |_| false);
        assert_eq!(gone, vec![(ROUTE, "b".into())]);
        assert!(fetches.is_over(&needs[0], later));
        assert!(fetches.follow(&needs, later, |_| true).is_empty());
        assert!(fetches.is_over(&needs[1], later), "b is there already");
    }
}
