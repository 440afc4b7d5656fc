//! The history's file: one change a line, appended and synced; a torn last line is dropped.
//!
//! A later line with the same id replaces the earlier one. Rewriting goes through a second file and
//! a rename, so that at any moment one whole file is there.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::Change;

/// Longest line that is read; longer ones are not ours.
const LONGEST_LINE: u64 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
    bytes: usize,
}

impl Log {
    /// Opens or makes the file; what it holds, oldest first.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Change>)> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = options().open(path)?;
        let (changes, good) = read(&file)?;
        // What follows the last whole line is of a write that was cut off.
        file.set_len(good)?;
        file.seek(SeekFrom::End(0))?;
        let log = Self {
            path: path.to_owned(),
            file,
            lines: changes.len(),
            bytes: usize::try_from(good).unwrap_or(usize::MAX),
        };
        Ok((log, changes))
    }

    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn append(&mut self, change: &Change) -> io::Result<()> {
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        let before = self.file.stream_position()?;
        let written = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line would spoil the next one.
            self.file.set_len(before)?;
            self.file.seek(SeekFrom::Start(before))?;
            return Err(error);
        }
        self.lines += 1;
        self.bytes += line.len();
        Ok(())
    }

    /// Leaves only these changes.
    pub(super) fn rewrite(&mut self, changes: &[Change]) -> io::Result<()> {
        let draft = self.path.with_extension("new");
        let mut file = options().truncate(true).open(&draft)?;
        let mut bytes = 0;
        for change in changes {
            let mut line = serde_json::to_vec(change)?;
            line.push(b'\n');
            file.write_all(&line)?;
            bytes += line.len();
        }
        file.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        self.file = file;
        self.lines = changes.len();
        self.bytes = bytes;
        Ok(())
    }
}

/// Objects may say what others should not read.
fn options() -> std::fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// Changes, and how many bytes from the start are whole lines.
fn read(file: &File) -> io::Result<(Vec<Change>, u64)> {
    let mut reader = BufReader::new(file);
    let mut changes: Vec<Change> = Vec::new();
    let mut good = 0;
    loop {
        let mut line = Vec::new();
        let length = reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        if length == 0 || line.last() != Some(&b'\n') {
            return Ok((changes, good));
        }
        good += length as u64;
        // A line of a newer version is kept out, not fatal.
        let Ok(change) = serde_json::from_slice::<Change>(&line) else {
            continue;
        };
        match changes.iter_mut().rev().find(|known| known.id == change.id) {
            Some(known) => *known = change,
            None => changes.push(change),
        }
    }
}
