//! The process's log: text or JSON on standard error, with levels that can change while it runs.
//!
//! [`init`] is the one process-wide thing of this crate and belongs into `main`. Warnings that could
//! repeat per request or per reconnect go through [`Throttle`]: the first is written, the others are
//! counted, and the count is written with the next one.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt as text, reload};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log format {0:?} is unknown (expected text or json)")]
    Format(String),
    #[error(
        "log filter {filter:?} is not understood: {reason} (expected something like info or warn,malla_xds=debug)"
    )]
    Filter { filter: String, reason: String },
    #[error("the process already has a log (init is for main, once)")]
    AlreadySet,
    #[error("the log is gone (its subscriber was dropped)")]
    Gone,
}

/// Changes the levels of a running log; cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogHandle").field(&self.filter()).finish()
    }
}

impl LogHandle {
    /// Replaces the filter, in `tracing`'s syntax: `info`, or `warn,malla_xds=debug`.
    ///
    /// # Errors
    /// When the filter does not parse; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        self.filter.reload(parsed).map_err(|_| LogError::Gone)
    }

    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

/// Sets up the process's log on standard error.
///
/// # Errors
/// When the filter does not parse or the process already has a log.
pub fn init(format: Format, filter: &str) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Text => registry
            .with(text::layer().with_writer(std::io::stderr).with_target(true))
            .try_init(),
        Format::Json => registry
            .with(
                text::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    set.map_err(|_| LogError::AlreadySet)?;
    Ok(LogHandle { filter: handle })
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter {
            filter: filter.to_owned(),
            reason: error.to_string(),
        })
}

/// Keys remembered by one [`Throttle`]; beyond it, the throttle treats all new keys as one.
const MAX_KEYS: usize = 1024;

/// Lets one message per key and interval through and counts the others.
///
/// ```
/// # use malla_runtime::log::Throttle;
/// # let (peer, error) = ("10.0.0.1", "reset");
/// let warnings = Throttle::default();
/// if let Some(skipped) = warnings.allow(peer) {
///     tracing::warn!(peer, error, skipped, "handshake failed");
/// }
/// ```
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    keys: Mutex<HashMap<Box<str>, Seen>>,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    skipped: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(Duration::from_secs(30))
    }
}

impl Throttle {
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            keys: Mutex::new(HashMap::new()),
        }
    }

    /// `Some(skipped)` when the message may be written, with how many were held back since the last.
    #[must_use]
    pub fn allow(&self, key: &str) -> Option<u64> {
        self.allow_at(key, Instant::now())
    }

    fn allow_at(&self, key: &str, now: Instant) -> Option<u64> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_KEYS && !keys.contains_key(key) {
            // Quiet keys are forgotten first, so that a noisy peer cannot pin the table.
            keys.retain(|_, seen| now - seen.since < self.interval);
        }
        let key = if keys.len() >= MAX_KEYS && !keys.contains_key(key) {
            ""
        } else {
            key
        };
        match keys.get_mut(key) {
            Some(seen) if now - seen.since < self.interval => {
                seen.skipped = seen.skipped.saturating_add(1);
                None
            }
            Some(seen) => {
                seen.since = now;
                Some(std::mem::take(&mut seen.skipped))
            }
            None => {
                let first = Seen {
                    since: now,
                    skipped: 0,
                };
                keys.insert(key.into(), first);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_per_key() {
        let interval = Duration::from_secs(10);
        let throttle = Throttle::new(interval);
        let now = Instant::now();
        assert_eq!(throttle.allow_at("a", now), Some(0));
        assert_eq!(throttle.allow_at("a", now), None);
        assert_eq!(throttle.allow_at("b", now), Some(0));
        assert_eq!(throttle.allow_at("a", now), None);
        assert_eq!(throttle.allow_at("a", now + interval), Some(2));
    }

    #[test]
    fn the_table_of_keys_is_bounded() {
        let throttle = Throttle::default();
        for key in 0..MAX_KEYS * 2 {
            let _ = throttle.allow(&key.to_string());
        }
        let keys = throttle.keys.lock().unwrap().len();
        assert!(keys <= MAX_KEYS + 1, "{keys}");
    }

    #[test]
    fn bad_settings_say_what_was_expected() {
        let error = "xml".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("expected text or json"), "{error}");
        let error = parse("malla=loud").unwrap_err().to_string();
        assert!(error.contains("malla=loud"), "{error}");
    }

    #[test]
    fn levels_change_while_running() {
        let (layer, filter) = reload::Layer::new(parse("info").unwrap());
        let _subscriber = tracing_subscriber::registry().with(layer);
        let handle = LogHandle { filter };
        handle.set_filter("warn,malla_xds=debug").unwrap();
        assert!(handle.filter().contains("malla_xds=debug"));
        assert!(handle.set_filter("malla=loud").is_err());
        assert!(handle.filter().contains("malla_xds=debug"));
    }
}
