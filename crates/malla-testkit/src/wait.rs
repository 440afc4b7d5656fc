//! Waiting, without guessing how long.

use std::fmt::Display;
use std::time::{Duration, Instant};

const AGAIN: Duration = Duration::from_millis(100);

/// Tries until it works.
///
/// # Panics
/// When it still does not at the deadline, with what it said last.
pub fn eventually<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => {
                assert!(
                    started.elapsed() < deadline,
                    "{what}: not within {deadline:?}: {error}"
                );
                std::thread::sleep(AGAIN);
            }
        }
    }
}
