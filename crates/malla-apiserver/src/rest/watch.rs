//! Watch: what a list would show, followed.
//!
//! An object that begins or ceases to match the selectors appears and disappears, as if created and deleted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::Target;
use super::read::{self, ListOptions};
use crate::core::Core;
use crate::error::ApiError;
use crate::store::{Change, Cursor, Position};

/// How a watch starts and what it tells besides changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchOptions {
    pub(crate) list: ListOptions,
    /// Start after this version; `None`: start with all there is.
    pub(crate) from: Option<u64>,
    /// Tell that the initial objects are complete (`sendInitialEvents`).
    pub(crate) initial_bookmark: bool,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<Duration>,
}

/// One line of a watch.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Added(Arc<Value>),
    Modified(Arc<Value>),
    Deleted(Arc<Value>),
    Bookmark { version: u64, initial_end: bool },
}

struct Follower {
    target: Target,
    options: WatchOptions,
    cursor: Cursor,
    ready: VecDeque<Event>,
    ticks: tokio::time::Interval,
    deadline: Option<Instant>,
    told: u64,
    ended: bool,
}

/// Starts a watch. The stream ends after its time, or after an error.
pub(crate) fn watch(
    core: &Core,
    target: Target,
    options: WatchOptions,
) -> Result<impl Stream<Item = Result<Event, ApiError>> + Send + 'static + use<>, ApiError> {
    let (ready, from) = start(core, &target, &options)?;
    let cursor = core.store.follow(target.resource(), from);
    let cursor = cursor.ok_or_else(|| expired(from, core.store.read().version()))?;
    let every = core.config.limits.bookmark_every;
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        deadline: options.timeout.map(|timeout| Instant::now() + timeout),
        target,
        options,
        cursor,
        ready,
        ticks,
        told: from,
        ended: false,
    };
    Ok(futures_util::stream::unfold(
        follower,
        |mut follower| async {
            let event = follower.next().await?;
            Some((event, follower))
        },
    ))
}

/// The events of the initial state, and the version it is of.
fn start(
    core: &Core,
    target: &Target,
    options: &WatchOptions,
) -> Result<(VecDeque<Event>, u64), ApiError> {
    if let Some(from) = options.from {
        return Ok((VecDeque::new(), from));
    }
    let page = read::list(core, target, &options.list)?;
    let mut ready: VecDeque<Event> = page.items.into_iter().map(Event::Added).collect();
    if options.initial_bookmark {
        ready.push_back(Event::Bookmark {
            version: page.version,
            initial_end: true,
        });
    }
    Ok((ready, page.version))
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Event, ApiError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            let version = match self.cursor.step() {
                Position::Lost => {
                    self.ended = true;
                    return Some(Err(expired(self.told, self.told)));
                }
                Position::Changes(changes) => {
                    let events = changes.iter().filter_map(|change| self.event(change));
                    let events: Vec<Event> = events.collect();
                    self.ready.extend(events);
                    continue;
                }
                Position::UpToDate(version) => version,
            };
            self.wait(version).await;
        }
    }

    async fn wait(&mut self, version: u64) {
        let deadline = self.deadline;
        let timeout = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // News first: a watch at its end still tells what it knows.
            () = self.cursor.changed() => {}
            () = timeout => self.ended = true,
            _ = self.ticks.tick(), if self.options.bookmarks => {
                if version > self.told {
                    self.told = version;
                    self.ready.push_back(Event::Bookmark { version, initial_end: false });
                }
            }
        }
    }

    fn event(&self, change: &Change) -> Option<Event> {
        let namespace = &self.target.namespace;
        if !namespace.is_empty() && *namespace != change.key.namespace {
            return None;
        }
        let matches = |object: &Arc<Value>| self.options.list.matches(object);
        let shown = |object| self.target.shown(object);
        let before = change.old.as_ref().map(|old| shown(&old.object));
        let before = before.filter(matches);
        let now = shown(&change.object);
        match (before, !change.removed && matches(&now)) {
            (None, true) => Some(Event::Added(now)),
            (Some(_), true) => Some(Event::Modified(now)),
            (Some(_), false) if change.removed => Some(Event::Deleted(now)),
            (Some(old), false) => {
                let mut last = Value::clone(&old);
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(Event::Deleted(Arc::new(last)))
            }
            (None, false) => None,
        }
    }
}

fn expired(from: u64, now: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {from} ({now})"))
}
