//! Log lines on their way to files: buffered by worker, written by one thread.
//!
//! A worker appends lines to its own buffer; full or aged buffers go to the thread through a bounded queue. No worker
//! ever waits for a disk or a pipe: when the queue is full the buffer is dropped and the lines are counted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use malla_proxy_config::access_log::Sink;

/// A buffer goes out when it has this many bytes (Envoy's `file_flush_min_size_kb` is 64), or by [`WorkerLogs::flush`].
const FLUSH_AT: usize = 64 << 10;
/// Buffers waiting for the thread.
const QUEUE: usize = 256;

/// The writing thread; cheap to clone, ends when the last clone is gone and all is written.
#[derive(Debug, Clone)]
pub struct LogWriter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` only while being dropped.
    queue: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
    reopen: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Batch {
    sink: Sink,
    bytes: Vec<u8>,
    /// Told when everything before it is written.
    done: Option<std::sync::mpsc::Sender<()>>,
}

impl LogWriter {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let reopen = Arc::new(AtomicU64::new(0));
        let (lost, again) = (Arc::clone(&dropped), Arc::clone(&reopen));
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&batches, &lost, &again))?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue: Some(queue),
                thread: Some(thread),
                dropped,
                reopen,
            }),
        })
    }

    /// The side one worker writes to.
    pub fn worker(&self) -> WorkerLogs {
        let buffers = Buffers {
            writer: self.clone(),
            lines: RefCell::default(),
        };
        WorkerLogs {
            buffers: Rc::new(buffers),
        }
    }

    /// Lines' buffers dropped because the queue was full or the file could not be written.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    /// Opens files again before the next write (after log rotation).
    pub fn reopen(&self) {
        self.inner.reopen.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until everything handed over so far is written; blocks, for shutdown and tests.
    pub fn sync(&self) {
        let (done, written) = std::sync::mpsc::channel();
        let batch = Batch {
            sink: Sink::Stderr,
            bytes: Vec::new(),
            done: Some(done),
        };
        if let Some(queue) = &self.inner.queue
            && queue.send(batch).is_ok()
        {
            // An error means the thread is gone, and with it everything there was to write.
            let _ = written.recv();
        }
    }

    fn send(&self, sink: Sink, bytes: Vec<u8>) {
        let Some(queue) = &self.inner.queue else {
            return;
        };
        match queue.try_send(Batch {
            sink,
            bytes,
            done: None,
        }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.inner.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed already.
            let _ = thread.join();
        }
    }
}

/// One worker's buffers; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerLogs {
    buffers: Rc<Buffers>,
}

#[derive(Debug)]
struct Buffers {
    writer: LogWriter,
    lines: RefCell<Vec<(Sink, Vec<u8>)>>,
}

impl WorkerLogs {
    /// Lets `line` append to the sink's buffer.
    pub fn append(&self, sink: &Sink, line: impl FnOnce(&mut Vec<u8>)) {
        let mut buffers = self.buffers.lines.borrow_mut();
        let index = match buffers.iter().position(|(known, _)| known == sink) {
            Some(index) => index,
            None => {
                buffers.push((sink.clone(), Vec::new()));
                buffers.len() - 1
            }
        };
        let Some((sink, buffer)) = buffers.get_mut(index) else {
            return;
        };
        line(buffer);
        if buffer.len() >= FLUSH_AT {
            self.buffers
                .writer
                .send(sink.clone(), std::mem::take(buffer));
        }
    }

    /// Hands over what is buffered. Call it regularly and at the end.
    pub fn flush(&self) {
        for (sink, buffer) in self.buffers.lines.borrow_mut().iter_mut() {
            if !buffer.is_empty() {
                self.buffers
                    .writer
                    .send(sink.clone(), std::mem::take(buffer));
            }
        }
    }

    /// Flushes every `interval` for as long as it is polled; the last flush is that of the last clone's drop.
    pub async fn flush_regularly(self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.flush();
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for (sink, buffer) in self.lines.take() {
            if !buffer.is_empty() {
                self.writer.send(sink, buffer);
            }
        }
    }
}

/// Keeps one descriptor for each file; what cannot be opened is tried again with the next batch.
fn write_all(batches: &Receiver<Batch>, dropped: &AtomicU64, reopen: &AtomicU64) {
    let mut files: HashMap<Sink, File> = HashMap::new();
    let mut seen = 0;
    while let Ok(Batch { sink, bytes, done }) = batches.recv() {
        let wanted = reopen.load(Ordering::Relaxed);
        if wanted != seen {
            seen = wanted;
            files.clear();
        }
        let written = match &sink {
            Sink::Stdout => std::io::stdout().lock().write_all(&bytes),
            Sink::Stderr => std::io::stderr().lock().write_all(&bytes),
            Sink::File(path) => match files.get(&sink) {
                Some(mut file) => file.write_all(&bytes),
                None => OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .and_then(|mut file| {
                        let written = file.write_all(&bytes);
                        files.insert(sink.clone(), file);
                        written
                    }),
            },
        };
        if let Err(error) = written {
            files.remove(&sink);
            if dropped.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
                tracing::warn!(?sink, %error, "access log lines lost");
            }
        }
        if let Some(done) = done {
            // The waiter may have gone.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use malla_proxy_config::access_log::Sink;

    use super::LogWriter;

    #[test]
    fn lines_of_all_workers_arrive_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let sink = Sink::File(Arc::from(path.as_path()));
        let writer = LogWriter::start().unwrap();
        let (one, two) = (writer.worker(), writer.worker());
        for _ in 0..10_000 {
            one.append(&sink, |out| out.extend_from_slice(b"one one one\n"));
            two.append(&sink, |out| out.extend_from_slice(b"two two two\n"));
        }
        one.flush();
        two.flush();
        writer.sync();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 20_000);
        assert!(
            text.lines()
                .all(|line| line == "one one one" || line == "two two two")
        );
        assert_eq!(writer.dropped(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_counted() {
        let sink = Sink::File(Arc::from(std::path::Path::new("/nowhere/at/all")));
        let writer = LogWriter::start().unwrap();
        let worker = writer.worker();
        worker.append(&sink, |out| out.extend_from_slice(b"lost\n"));
        worker.flush();
        writer.sync();
        assert_eq!(writer.dropped(), 1);
    }
}
