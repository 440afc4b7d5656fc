//! The write-ahead log: every accepted sample is in it before anybody can read the sample.
//!
//! A segment is a magic number and records, each `length, checksum, payload`. A segment declares
//! the series it uses itself, so it can be read alone; one that ends in the middle of a record
//! (the process was killed, the disk was full) is read up to its last whole record.
//!
//! Invariant: after an error, the file ends where it ended before, or the segment is given up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::metrics::bits::{ByteReader, put_bytes, put_varint, unzigzag, zigzag};
use crate::metrics::chunk::Sample;
use crate::metrics::labels::Labels;

const MAGIC: &[u8; 8] = b"MALLAWA1";
const HEAD: usize = 8;
/// No record is longer; a longer one is damage.
const LONGEST: u32 = 64 << 20;

const SERIES: u8 = 1;
const SAMPLES: u8 = 2;
const FORGET: u8 = 3;

/// What a log says, in the order it was said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    Series(u32, Labels),
    Sample(u32, Sample),
    /// Everything later than this time was a mistake of the clock.
    Forget(i64),
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Wal {
    folder: PathBuf,
    pub(crate) number: u64,
    file: Arc<File>,
    length: u64,
    broken: bool,
}

impl Wal {
    pub(crate) fn create(folder: &Path, number: u64) -> io::Result<Self> {
        let path = segment_path(folder, number);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        (&file).write_all(MAGIC)?;
        Ok(Self {
            folder: folder.to_owned(),
            number,
            file: Arc::new(file),
            length: MAGIC.len() as u64,
            broken: false,
        })
    }

    /// Bytes of this segment.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends whole records. On an error nothing of them remains and the caller declares its
    /// series again with the next write.
    pub(crate) fn write(&mut self, records: &[u8]) -> io::Result<()> {
        if self.broken {
            *self = Self::create(&self.folder, self.number + 1)?;
        }
        match (&*self.file).write_all(records) {
            Ok(()) => {
                self.length += records.len() as u64;
                Ok(())
            }
            Err(error) => {
                let back = self.file.set_len(self.length);
                let seek = io::Seek::seek(&mut &*self.file, io::SeekFrom::Start(self.length));
                self.broken = back.is_err() || seek.is_err();
                Err(error)
            }
        }
    }

    /// A handle to sync with, outside of any lock.
    pub(crate) fn handle(&self) -> Arc<File> {
        self.file.clone()
    }
}

/// Collects records for one write.
#[derive(Debug, Default)]
pub(crate) struct Records {
    out: Vec<u8>,
}

impl Records {
    pub(crate) fn series<'a>(&mut self, series: impl ExactSizeIterator<Item = (u32, &'a Labels)>) {
        if series.len() == 0 {
            return;
        }
        let at = self.begin(SERIES);
        put_varint(&mut self.out, series.len() as u64);
        for (id, labels) in series {
            put_varint(&mut self.out, u64::from(id));
            put_varint(&mut self.out, labels.len() as u64);
            for (name, value) in labels.iter() {
                put_bytes(&mut self.out, name.as_bytes());
                put_bytes(&mut self.out, value.as_bytes());
            }
        }
        self.end(at);
    }

    pub(crate) fn samples(&mut self, samples: &[(u32, Sample)]) {
        let Some((_, first)) = samples.first() else {
            return;
        };
        let base = first.t;
        let at = self.begin(SAMPLES);
        put_varint(&mut self.out, zigzag(base));
        put_varint(&mut self.out, samples.len() as u64);
        let mut last = 0_i64;
        for (id, sample) in samples {
            let step = zigzag(i64::from(*id) - last);
            last = i64::from(*id);
            let whole = as_whole(sample.v);
            put_varint(&mut self.out, (step << 1) | u64::from(whole.is_none()));
            put_varint(&mut self.out, zigzag(sample.t.wrapping_sub(base)));
            match whole {
                Some(whole) => put_varint(&mut self.out, zigzag(whole)),
                None => self
                    .out
                    .extend_from_slice(&sample.v.to_bits().to_le_bytes()),
            }
        }
        self.end(at);
    }

    pub(crate) fn forget(&mut self, after: i64) {
        let at = self.begin(FORGET);
        put_varint(&mut self.out, zigzag(after));
        self.end(at);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.out
    }

    fn begin(&mut self, kind: u8) -> usize {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; HEAD]);
        self.out.push(kind);
        at
    }

    fn end(&mut self, at: usize) {
        let payload = self.out.get(at + HEAD..).unwrap_or_default();
        let (length, sum) = (payload.len() as u32, xxh3_64(payload) as u32);
        if let Some(head) = self.out.get_mut(at..at + HEAD) {
            head[..4].copy_from_slice(&length.to_le_bytes());
            head[4..].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// Counters are whole numbers: those take a few bytes instead of eight.
fn as_whole(v: f64) -> Option<i64> {
    let whole = v as i64;
    let exact = (whole as f64).to_bits() == v.to_bits();
    (exact && whole.unsigned_abs() < 1 << 53).then_some(whole)
}

/// Reads a segment up to its first damage; returns the bytes that could not be read.
pub(crate) fn replay(path: &Path, each: impl FnMut(Entry)) -> io::Result<u64> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(read(&bytes, each))
}

pub(crate) fn read(bytes: &[u8], mut each: impl FnMut(Entry)) -> u64 {
    let mut rest = ByteReader(bytes);
    if rest.take(MAGIC.len()) != Some(MAGIC.as_slice()) {
        return bytes.len() as u64;
    }
    let mut entries = Vec::new();
    loop {
        let before = rest.0.len() as u64;
        if before == 0 {
            return 0;
        }
        entries.clear();
        let read = record(&mut rest).and_then(|payload| decode(payload, &mut entries));
        if read.is_none() {
            return before;
        }
        entries.drain(..).for_each(&mut each);
    }
}

fn record<'a>(rest: &mut ByteReader<'a>) -> Option<ByteReader<'a>> {
    let (length, sum) = (rest.u32()?, rest.u32()?);
    if length > LONGEST {
        return None;
    }
    let payload = rest.take(length as usize)?;
    (xxh3_64(payload) as u32 == sum).then_some(ByteReader(payload))
}

fn decode(mut payload: ByteReader<'_>, out: &mut Vec<Entry>) -> Option<()> {
    match payload.byte()? {
        SERIES => {
            for _ in 0..payload.size()? {
                let id = u32::try_from(payload.varint()?).ok()?;
                let mut pairs = Vec::new();
                for _ in 0..payload.size()? {
                    pairs.push((payload.text()?.into(), payload.text()?.into()));
                }
                out.push(Entry::Series(id, Labels::from_pairs(pairs)));
            }
        }
        SAMPLES => {
            let base = payload.signed()?;
            let mut last = 0_i64;
            for _ in 0..payload.size()? {
                let tag = payload.varint()?;
                last = last.checked_add(unzigzag(tag >> 1))?;
                let t = base.wrapping_add(payload.signed()?);
                let v = if tag & 1 == 1 {
                    f64::from_bits(payload.u64()?)
                } else {
                    payload.signed()? as f64
                };
                out.push(Entry::Sample(u32::try_from(last).ok()?, Sample { t, v }));
            }
        }
        FORGET => out.push(Entry::Forget(payload.signed()?)),
        _ => return None,
    }
    Some(())
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016}.wal"))
}

/// The numbers of the segments in a folder, oldest first.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|s| s.to_str());
        if path.extension().is_some_and(|e| e == "wal")
            && let Some(number) = stem.and_then(|s| s.parse().ok())
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes the segments up to and with `last`; their samples are in a block.
pub(crate) fn delete_up_to(folder: &Path, last: u64) -> io::Result<()> {
    for (number, path) in segments(folder)? {
        if number <= last {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let sample = |t, v| Sample { t, v };
        vec![
            Entry::Series(7, Labels::new([("__name__", "up"), ("pod", "a")])),
            Entry::Series(9, Labels::new([("__name__", "down")])),
            Entry::Sample(7, sample(1_000, 1.0)),
            Entry::Sample(9, sample(1_001, -0.0)),
            Entry::Sample(7, sample(900, 0.25)),
            Entry::Forget(950),
        ]
    }

    fn written(folder: &Path) -> PathBuf {
        let mut wal = Wal::create(folder, 3).unwrap();
        let mut records = Records::default();
        let (mut series, mut samples) = (Vec::new(), Vec::new());
        for entry in &entries() {
            match entry {
                Entry::Series(id, labels) => series.push((*id, labels.clone())),
                Entry::Sample(id, sample) => samples.push((*id, *sample)),
                Entry::Forget(_) => {}
            }
        }
        records.series(series.iter().map(|(id, labels)| (*id, labels)));
        records.samples(&samples);
        records.forget(950);
        wal.write(records.bytes()).unwrap();
        segments(folder).unwrap().pop().unwrap().1
    }

    #[test]
    fn every_truncation_reads_a_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let bytes = fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let mut read = Vec::new();
            let lost = replay(&path, |entry| read.push(entry)).unwrap();
            assert_eq!(read[..], entries()[..read.len()], "{length} bytes");
            assert!(
                [0, 2, 5, 6].contains(&read.len()),
                "half a record at {length}"
            );
            assert!(lost as usize <= length);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let mut read = Vec::new();
            let lost = replay(&path, |entry| read.push(entry)).unwrap();
            assert!(lost > 0 && read[..] == entries()[..read.len()], "byte {at}");
        }
    }
}
