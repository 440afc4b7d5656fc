//! Reads a run's log as `kubectl logs` asks for it, and follows it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use jiff::{SignedDuration, Timestamp};
use malla_apiserver::outside::LogOptions;

use super::{Progress, RunLog};

/// Bytes handed on at a time while following.
const CHUNK: usize = 64 * 1024;

/// A reader at some place of a log.
#[derive(Debug)]
pub(in crate::node) struct Reader {
    log: Arc<RunLog>,
    file: Option<BufReader<File>>,
    generation: u64,
    progress: tokio::sync::watch::Receiver<Progress>,
    since: Option<Timestamp>,
    timestamps: bool,
    follow: bool,
    left: Option<u64>,
    pending: VecDeque<Vec<u8>>,
    partial: Vec<u8>,
}

impl Reader {
    /// Starts to read `log`; `now` is what `sinceSeconds` counts from.
    pub(in crate::node) fn new(log: Arc<RunLog>, options: &LogOptions, now: Timestamp) -> Self {
        let since_seconds = options
            .since_seconds
            .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        let mut reader = Self {
            progress: log.progress.subscribe(),
            since: since_seconds.max(options.since_time),
            timestamps: options.timestamps,
            follow: options.follow,
            left: options.limit_bytes,
            log,
            file: None,
            generation: 0,
            pending: VecDeque::new(),
            partial: Vec::new(),
        };
        reader.read_written(options.tail_lines);
        reader
    }

    /// The text of the last lines written so far.
    pub(super) fn lines_of(log: &RunLog, lines: u64) -> VecDeque<Vec<u8>> {
        let mut kept = Tail::new(Some(lines));
        for file in log.files().0 {
            for entry in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                if let Some(text) = show(&entry, None, false) {
                    kept.push(text);
                }
            }
        }
        kept.0
    }

    /// The bytes, until the end or for ever.
    pub(in crate::node) fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        unfold(self, async |mut reader| {
            let chunk = reader.next_chunk().await?;
            Some((Ok(chunk), reader))
        })
    }

    /// Takes all that is written already, and stays at its end.
    fn read_written(&mut self, tail: Option<u64>) {
        let (files, progress) = self.log.files();
        self.generation = progress.generation;
        let mut kept = Tail::new(tail);
        for file in files {
            let mut source = BufReader::new(file);
            let mut entry = Vec::new();
            while read_entry(&mut source, &mut entry) {
                if let Some(text) = show(&entry, self.since, self.timestamps) {
                    kept.push(text);
                }
                entry.clear();
            }
            self.partial = entry;
            self.file = Some(source);
        }
        self.pending = kept.0;
    }

    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.take_pending() {
                return Some(chunk);
            }
            if self.left == Some(0) || !self.follow {
                return None;
            }
            let now = *self.progress.borrow_and_update();
            self.read_more(now);
            if !self.pending.is_empty() {
                continue;
            }
            if now.closed || self.progress.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Reads on in the open file, and in the next one after a rotation.
    fn read_more(&mut self, now: Progress) {
        loop {
            if let Some(source) = &mut self.file {
                while read_entry(source, &mut self.partial) {
                    let entry = std::mem::take(&mut self.partial);
                    if let Some(text) = show(&entry, self.since, self.timestamps) {
                        self.pending.push_back(text);
                    }
                }
            }
            if self.generation == now.generation {
                return;
            }
            self.generation = now.generation;
            self.file = File::open(&self.log.path).ok().map(BufReader::new);
            self.partial.clear();
        }
    }

    fn take_pending(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some(text) = self.pending.pop_front() else {
                break;
            };
            chunk.extend(text);
        }
        if let Some(left) = &mut self.left {
            let most = usize::try_from(*left).unwrap_or(usize::MAX);
            chunk.truncate(most);
            *left = left.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        (!chunk.is_empty()).then(|| Bytes::from(chunk))
    }
}

impl RunLog {
    /// The file set aside and the current one, opened with no rotation in between.
    fn files(&self) -> (Vec<File>, Progress) {
        let _no_rotation = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = [Self::set_aside(&self.path), self.path.clone()];
        let files = paths.iter().filter_map(|path| File::open(path).ok());
        (files.collect(), *self.progress.borrow())
    }
}

/// The last so many lines, or all.
struct Tail(VecDeque<Vec<u8>>, Option<u64>);

impl Tail {
    fn new(lines: Option<u64>) -> Self {
        Self(VecDeque::new(), lines)
    }

    fn push(&mut self, text: Vec<u8>) {
        self.0.push_back(text);
        let most = self.1.map_or(usize::MAX, |lines| {
            usize::try_from(lines).unwrap_or(usize::MAX)
        });
        while self.0.len() > most {
            self.0.pop_front();
        }
    }
}

/// Reads one entry onto `entry`; false if it is not complete yet.
fn read_entry(source: &mut impl BufRead, entry: &mut Vec<u8>) -> bool {
    // `read_until` alone would call a file's unfinished end a line.
    let read = source.read_until(b'\n', entry);
    if read.is_ok() && entry.last() == Some(&b'\n') {
        entry.pop();
        return true;
    }
    false
}

/// An entry as the user sees it; `None` if it is too old.
pub(super) fn show(entry: &[u8], since: Option<Timestamp>, timestamps: bool) -> Option<Vec<u8>> {
    let mut fields = entry.splitn(4, |byte| *byte == b' ');
    let time = fields.next()?;
    let (_, flag, text) = (fields.next()?, fields.next()?, fields.next()?);
    if let Some(since) = since {
        let written: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        if written < since {
            return None;
        }
    }
    let mut shown = Vec::with_capacity(entry.len());
    if timestamps {
        shown.extend_from_slice(time);
        shown.push(b' ');
    }
    shown.extend_from_slice(text);
    if flag == b"F" {
        shown.push(b'\n');
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use jiff::Timestamp;
    use malla_apiserver::outside::LogOptions;

    use super::super::{ContainerLogs, ROTATE_AT, RunLog, Stream};
    use super::Reader;

    async fn read(log: &Arc<RunLog>, options: LogOptions) -> String {
        let reader = Reader::new(Arc::clone(log), &options, Timestamp::now());
        let chunks: Vec<_> = reader.stream().map(|chunk| chunk.unwrap()).collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn lines_come_back_as_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let logs = ContainerLogs::new(directory.path().to_path_buf());
        let log = logs.begin(0).unwrap();
        log.pump(&b"one\ntwo\nthree"[..], Stream::Out).await;
        let all = LogOptions::default();
        assert_eq!(read(&log, all.clone()).await, "one\ntwo\nthree\n");
        let tail = LogOptions {
            tail_lines: Some(2),
            ..all.clone()
        };
        assert_eq!(read(&log, tail).await, "two\nthree\n");
        let limit = LogOptions {
            limit_bytes: Some(5),
            ..all.clone()
        };
        assert_eq!(read(&log, limit).await, "one\nt");
        let future = Timestamp::now() + jiff::SignedDuration::from_secs(9);
        let since = LogOptions {
            since_time: Some(future),
            ..all.clone()
        };
        assert_eq!(read(&log, since).await, "");
        let stamped = read(
            &log,
            LogOptions {
                timestamps: true,
                ..all
            },
        )
        .await;
        let (time, text) = stamped.lines().next().unwrap().split_once(' ').unwrap();
        assert!(
            time.parse::<Timestamp>().is_ok() && text == "one",
            "{stamped}"
        );
        assert!(logs.find(true).is_none());
        let next = logs.begin(1).unwrap();
        next.pump(&b"again\n"[..], Stream::Err).await;
        assert_eq!(
            read(&logs.find(true).unwrap(), LogOptions::default()).await,
            "one\ntwo\nthree\n"
        );
    }

    #[tokio::test]
    async fn a_follower_sees_lines_across_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let log = ContainerLogs::new(directory.path().to_path_buf())
            .begin(0)
            .unwrap();
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let reader = Reader::new(Arc::clone(&log), &options, Timestamp::now());
        let following = tokio::spawn(async move {
            reader
                .stream()
                .fold(0_usize, async |sum, chunk| sum + chunk.unwrap().len())
                .await
        });
        let line = [b'x'; 99_999];
        let count = usize::try_from(ROTATE_AT).unwrap() / line.len() + 3;
        for _ in 0..count {
            log.pump(&line[..], Stream::Out).await;
            tokio::task::yield_now().await;
        }
        log.close();
        assert_eq!(following.await.unwrap(), count * (line.len() + 1));
        assert!(directory.path().join("0.log.1").exists());
    }
}
