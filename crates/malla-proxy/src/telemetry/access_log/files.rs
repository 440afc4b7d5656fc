//! Files whose content formats print (`%FILE_CONTENT(X)%`).
//!
//! Invariant: a file is read when it is first asked for, and again when it has changed, which is looked for at most once a
//! second; a file that cannot be read any more keeps its last content.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How long a file is believed.
const FRESH: Duration = Duration::from_secs(1);
/// Most bytes of a file that are printed.
const MOST_BYTES: u64 = 64 * 1024;

/// The files of a process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Files(Arc<Mutex<HashMap<Arc<str>, Known>>>);

#[derive(Debug)]
struct Known {
    checked: Instant,
    state: Option<(SystemTime, u64)>,
    content: Option<Arc<str>>,
}

impl Files {
    /// What the file says; `None` if it was never read.
    pub(super) fn content(&self, path: &Arc<str>) -> Option<Arc<str>> {
        self.content_at(path, Instant::now())
    }

    fn content_at(&self, path: &Arc<str>, now: Instant) -> Option<Arc<str>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get(path)
            && now.saturating_duration_since(known.checked) < FRESH
        {
            return known.content.clone();
        }
        let state = fs::metadata(&**path)
            .ok()
            // Reading anything else could take for ever.
            .filter(fs::Metadata::is_file)
            .and_then(|data| Some((data.modified().ok()?, data.len())));
        let old = files.remove(path);
        let known = match old {
            Some(old) if state.is_none() || old.state == state => Known {
                checked: now,
                ..old
            },
            _ => Known {
                checked: now,
                state,
                content: state.and_then(|_| read(path)),
            },
        };
        let content = known.content.clone();
        files.insert(Arc::clone(path), known);
        content
    }
}

fn read(path: &str) -> Option<Arc<str>> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!(path, %error, "a file that a log format prints cannot be read");
        return None;
    }
    Some(String::from_utf8_lossy(&bytes).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::{FRESH, Files};

    #[test]
    fn a_file_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<str> = folder.path().join("a").to_str().unwrap().into();
        let files = Files::default();
        let mut now = Instant::now();
        assert_eq!(files.content_at(&path, now), None);
        for text in ["one", "three"] {
            std::fs::write(&*path, text).unwrap();
            now += FRESH;
            assert_eq!(files.content_at(&path, now).as_deref(), Some(text));
        }
        std::fs::remove_file(&*path).unwrap();
        now += FRESH;
        let last = files.content_at(&path, now);
        assert_eq!(last.as_deref(), Some("three"), "the last that was good");
    }
}
