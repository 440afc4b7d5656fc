//! Logs of containers: written line by line as CRI runtimes do, read back for `kubectl logs`.
//!
//! A line of a file is `TIME STREAM FLAG TEXT`; flag `P` marks a part of a longer line, `F` its
//! end. Invariants: a run keeps at most two files of [`ROTATE_AT`] bytes, a container the files of
//! its last two runs; files are small and in the page cache, so they are read and written in place.

mod reader;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{broadcast, watch};

pub(super) use reader::Reader;

/// A file is set aside when it has grown to this (kubelet's `containerLogMaxSize`).
const ROTATE_AT: u64 = 10 * 1024 * 1024;
/// A longer line is written in parts (containerd's and CRI-O's buffer).
const LINE_PART: usize = 16 * 1024;
/// Chunks an attached terminal may be behind.
const LIVE_BACKLOG: usize = 256;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// What followers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// Counts rotations.
    generation: u64,
    size: u64,
    closed: bool,
}

/// The log of one run of a container.
#[derive(Debug)]
pub(super) struct RunLog {
    path: PathBuf,
    file: Mutex<File>,
    progress: watch::Sender<Progress>,
    complained: AtomicBool,
    live: broadcast::Sender<(Stream, Bytes)>,
}

/// The logs of a container's last runs.
#[derive(Debug)]
pub(super) struct ContainerLogs {
    directory: PathBuf,
    runs: Mutex<VecDeque<Arc<RunLog>>>,
}

impl ContainerLogs {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            runs: Mutex::default(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, VecDeque<Arc<RunLog>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the log of run number `run`.
    pub(super) fn begin(&self, run: i32) -> io::Result<Arc<RunLog>> {
        fs::create_dir_all(&self.directory)?;
        let log = Arc::new(RunLog::create(self.directory.join(format!("{run}.log")))?);
        let mut runs = self.runs();
        runs.push_back(Arc::clone(&log));
        while runs.len() > 2 {
            if let Some(old) = runs.pop_front() {
                old.delete();
            }
        }
        Ok(log)
    }

    /// The log of the current run, or of the one before.
    pub(super) fn find(&self, previous: bool) -> Option<Arc<RunLog>> {
        let runs = self.runs();
        let index = runs.len().checked_sub(if previous { 2 } else { 1 })?;
        runs.get(index).cloned()
    }
}

impl RunLog {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = open_for_append(&path)?;
        let (live, _) = broadcast::channel(LIVE_BACKLOG);
        Ok(Self {
            path,
            file: Mutex::new(file),
            progress: watch::Sender::new(Progress {
                generation: 0,
                size: 0,
                closed: false,
            }),
            complained: AtomicBool::new(false),
            live,
        })
    }

    /// Chunks as they come, for attached terminals.
    pub(super) fn live(&self) -> broadcast::Receiver<(Stream, Bytes)> {
        self.live.subscribe()
    }

    /// Copies a stream of the container into the log until it ends.
    pub(super) async fn pump(&self, mut source: impl AsyncRead + Unpin, stream: Stream) {
        let mut buffer = vec![0_u8; LINE_PART];
        let mut line = Vec::new();
        loop {
            // A terminal's end reads as an error.
            let read = source.read(&mut buffer).await.unwrap_or(0);
            let chunk = buffer.get(..read).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            let _nobody_attached = self.live.send((stream, Bytes::copy_from_slice(chunk)));
            self.take(chunk, stream, &mut line);
        }
        if !line.is_empty() {
            self.write(&entry(&line, stream, 'F'));
        }
    }

    /// Writes the complete lines of `line` + `chunk`; leaves the rest in `line`.
    fn take(&self, chunk: &[u8], stream: Stream, line: &mut Vec<u8>) {
        let mut entries = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    line.extend_from_slice(end);
                    entries.extend(entry(line, stream, 'F'));
                    line.clear();
                }
                None => line.extend_from_slice(piece),
            }
            while line.len() > LINE_PART {
                let rest = line.split_off(LINE_PART);
                entries.extend(entry(line, stream, 'P'));
                *line = rest;
            }
        }
        self.write(&entries);
    }

    fn write(&self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(entries) {
            // A full disk must not stop the container; its news is lost, and that is said once a run.
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::warn!(path = %self.path.display(), %error, "a container's log is not written");
            }
            return;
        }
        let added = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        self.progress.send_modify(|progress| {
            progress.size = progress.size.saturating_add(added);
            if progress.size >= ROTATE_AT {
                match rotate(&self.path) {
                    Ok(fresh) => {
                        *file = fresh;
                        progress.generation += 1;
                        progress.size = 0;
                    }
                    Err(error) => tracing::warn!(%error, "a container's log could not be rotated"),
                }
            }
        });
    }

    /// Waits until no more lines will come.
    pub(super) async fn closed(&self) {
        // The sender lives in self, so this only ends when closed.
        let mut progress = self.progress.subscribe();
        let _closed = progress.wait_for(|progress| progress.closed).await;
    }

    /// Says that no more lines will come.
    pub(super) fn close(&self) {
        self.progress.send_modify(|progress| progress.closed = true);
    }

    /// The last bytes of the log's text, for `FallbackToLogsOnError`.
    pub(super) fn tail(&self, lines: u64, bytes: usize) -> String {
        let mut kept: VecDeque<u8> = VecDeque::new();
        for line in Reader::lines_of(self, lines) {
            kept.extend(line);
        }
        let skip = kept.len().saturating_sub(bytes);
        let text: Vec<u8> = kept.into_iter().skip(skip).collect();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn set_aside(path: &Path) -> PathBuf {
        path.with_extension("log.1")
    }

    fn delete(&self) {
        for path in [self.path.clone(), Self::set_aside(&self.path)] {
            let _may_not_exist = fs::remove_file(path);
        }
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn rotate(path: &Path) -> io::Result<File> {
    fs::rename(path, RunLog::set_aside(path))?;
    open_for_append(path)
}

fn entry(text: &[u8], stream: Stream, flag: char) -> Vec<u8> {
    // Fixed width, as CRI wants nanoseconds.
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ");
    let mut entry = format!("{now} {} {flag} ", stream.word()).into_bytes();
    entry.extend_from_slice(text);
    entry.push(b'\n');
    entry
}

/// An entry of a log file as the user sees it, with its time.
#[cfg(fuzzing)]
pub(super) fn show(entry: &[u8]) -> Option<Vec<u8>> {
    reader::show(entry, Some(Timestamp::UNIX_EPOCH), true)
}
