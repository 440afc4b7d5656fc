//! Immutable files of finished chunks, with their own label index.
//!
//! A file is `magic, chunks, index, footer`. It is written under another name, synced and then
//! renamed, so a block is there whole or not at all; the footer says which segments of the log it
//! makes unnecessary. The index is read when first asked for and checked by its checksum; each
//! series' chunks have one of their own. Damage costs what is damaged, and is counted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::metrics::bits::{ByteReader, put_bytes, put_varint, zigzag};
use crate::metrics::chunk::{Chunk, Sample, Samples};
use crate::metrics::labels::Labels;
use crate::metrics::postings::Postings;

const MAGIC: &[u8; 8] = b"MALLABK1";
const FOOTER: u64 = 64;

/// What the footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Footer {
    index_at: u64,
    index_length: u64,
    index_sum: u64,
    min: i64,
    max: i64,
    covers: u64,
    samples: u64,
}

/// One block on disk.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// The last segment of the log that this block replaces.
    pub(crate) covers: u64,
    pub(crate) bytes: u64,
    footer: Footer,
    path: PathBuf,
    file: File,
    index: Mutex<Option<Arc<BlockIndex>>>,
    pub(crate) used: AtomicU64,
}

/// The labels of a block, in memory.
#[derive(Debug)]
pub(crate) struct BlockIndex {
    pub(crate) postings: Postings,
    pub(crate) series: Vec<BlockSeries>,
}

#[derive(Debug)]
pub(crate) struct BlockSeries {
    pub(crate) labels: Labels,
    offset: u64,
    sum: u32,
    chunks: Box<[Meta]>,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    min: i64,
    max: i64,
    count: u16,
    length: u32,
}

/// Writes a block and publishes it.
pub(crate) fn write(
    folder: &Path,
    number: u64,
    covers: u64,
    series: &[(Labels, Vec<Chunk>)],
) -> io::Result<Block> {
    let path = folder.join(format!("{number:016}.block"));
    let draft = path.with_extension("tmp");
    let result = write_draft(&draft, covers, series);
    if let Err(error) = result {
        fs::remove_file(&draft).ok();
        return Err(error);
    }
    fs::rename(&draft, &path)?;
    File::open(folder)?.sync_all()?;
    Block::open(&path)?.ok_or_else(|| io::Error::other("a block just written cannot be read"))
}

fn write_draft(path: &Path, covers: u64, series: &[(Labels, Vec<Chunk>)]) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(MAGIC)?;
    let mut at = MAGIC.len() as u64;
    let mut symbols = Symbols::default();
    let mut entries = Vec::new();
    let (mut min, mut max, mut samples) = (i64::MAX, i64::MIN, 0_u64);
    for (labels, chunks) in series {
        put_varint(&mut entries, labels.len() as u64);
        for (name, value) in labels.iter() {
            put_varint(&mut entries, symbols.id(name));
            put_varint(&mut entries, symbols.id(value));
        }
        let mut sum = Xxh3::new();
        put_varint(&mut entries, at);
        put_varint(&mut entries, chunks.len() as u64);
        for chunk in chunks {
            out.write_all(&chunk.data)?;
            sum.update(&chunk.data);
            at += chunk.data.len() as u64;
            put_varint(&mut entries, zigzag(chunk.min));
            put_varint(&mut entries, zigzag(chunk.max.wrapping_sub(chunk.min)));
            put_varint(&mut entries, u64::from(chunk.count));
            put_varint(&mut entries, chunk.data.len() as u64);
            (min, max) = (min.min(chunk.min), max.max(chunk.max));
            samples += u64::from(chunk.count);
        }
        entries.extend_from_slice(&(sum.digest() as u32).to_le_bytes());
    }
    let mut index = symbols.bytes();
    put_varint(&mut index, series.len() as u64);
    index.append(&mut entries);
    out.write_all(&index)?;
    let footer = Footer {
        index_at: at,
        index_length: index.len() as u64,
        index_sum: xxh3_64(&index),
        min,
        max,
        covers,
        samples,
    };
    out.write_all(&footer.encode())?;
    out.flush()?;
    out.get_ref().sync_all()
}

#[derive(Default)]
struct Symbols<'a> {
    ids: HashMap<&'a str, u64, foldhash::fast::RandomState>,
    order: Vec<&'a str>,
}

impl<'a> Symbols<'a> {
    fn id(&mut self, text: &'a str) -> u64 {
        *self.ids.entry(text).or_insert_with(|| {
            self.order.push(text);
            self.order.len() as u64 - 1
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.order.len() as u64);
        for text in &self.order {
            put_bytes(&mut out, text.as_bytes());
        }
        out
    }
}

impl Footer {
    fn encode(&self) -> [u8; FOOTER as usize] {
        let mut out = [0; FOOTER as usize];
        let words = [
            self.index_at,
            self.index_length,
            self.index_sum,
            self.min as u64,
            self.max as u64,
            self.covers,
            self.samples,
        ];
        for (slot, word) in out.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let sum = xxh3_64(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; FOOTER as usize]) -> Option<Self> {
        let mut rest = ByteReader(bytes);
        let footer = Self {
            index_at: rest.u64()?,
            index_length: rest.u64()?,
            index_sum: rest.u64()?,
            min: rest.u64()? as i64,
            max: rest.u64()? as i64,
            covers: rest.u64()?,
            samples: rest.u64()?,
        };
        (rest.u64()? == xxh3_64(&bytes[..56])).then_some(footer)
    }
}

impl Block {
    /// `None` when the file is not a whole block.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let number = path.file_stem().and_then(|s| s.to_str());
        let (Some(number), Some(at)) = (
            number.and_then(|s| s.parse().ok()),
            bytes.checked_sub(FOOTER),
        ) else {
            return Ok(None);
        };
        let mut footer = [0; FOOTER as usize];
        file.read_exact_at(&mut footer, at)?;
        let Some(footer) = Footer::decode(&footer) else {
            return Ok(None);
        };
        if footer.index_at.checked_add(footer.index_length) != Some(at) {
            return Ok(None);
        }
        Ok(Some(Self {
            number,
            min: footer.min,
            max: footer.max,
            covers: footer.covers,
            bytes,
            footer,
            path: path.to_owned(),
            file,
            index: Mutex::new(None),
            used: AtomicU64::new(0),
        }))
    }

    pub(crate) fn overlaps(&self, min: i64, max: i64) -> bool {
        self.min <= max && self.max >= min
    }

    /// The index, from memory or from disk.
    pub(crate) fn index(&self, tick: u64) -> io::Result<Arc<BlockIndex>> {
        self.used.store(tick, Ordering::Relaxed);
        let mut held = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*held {
            return Ok(index.clone());
        }
        // The footer was checked against the file's length, so this is no wild allocation.
        let mut bytes = vec![0; self.footer.index_length as usize];
        self.file.read_exact_at(&mut bytes, self.footer.index_at)?;
        if xxh3_64(&bytes) != self.footer.index_sum {
            return Err(damaged(&self.path, "its index"));
        }
        let index = decode_index(ByteReader(&bytes))
            .ok_or_else(|| damaged(&self.path, "its index's layout"))?;
        let index = Arc::new(index);
        *held = Some(index.clone());
        Ok(index)
    }

    pub(crate) fn is_loaded(&self) -> bool {
        let held = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_some()
    }

    /// Gives the index's memory back.
    pub(crate) fn unload(&self) {
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Appends a series' samples between `min` and `max`.
    pub(crate) fn read(
        &self,
        series: &BlockSeries,
        min: i64,
        max: i64,
        out: &mut Vec<Sample>,
    ) -> io::Result<()> {
        if !series.overlaps(min, max) {
            return Ok(());
        }
        let length: u64 = series.chunks.iter().map(|c| u64::from(c.length)).sum();
        if series.offset.saturating_add(length) > self.footer.index_at {
            return Err(damaged(&self.path, "a series' place"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, series.offset)?;
        if xxh3_64(&bytes) as u32 != series.sum {
            return Err(damaged(&self.path, "a series' chunks"));
        }
        let mut rest = ByteReader(&bytes);
        for chunk in &series.chunks {
            let Some(data) = rest.take(chunk.length as usize) else {
                break;
            };
            if chunk.min <= max && chunk.max >= min {
                let samples = Samples::new(data, chunk.count);
                out.extend(samples.filter(|s| s.t >= min && s.t <= max));
            }
        }
        Ok(())
    }

    pub(crate) fn delete(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

impl BlockSeries {
    pub(crate) fn overlaps(&self, min: i64, max: i64) -> bool {
        self.chunks.iter().any(|c| c.min <= max && c.max >= min)
    }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let text = format!("{}: {what} does not match its checksum", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn decode_index(mut rest: ByteReader<'_>) -> Option<BlockIndex> {
    let mut symbols: Vec<Arc<str>> = Vec::new();
    for _ in 0..rest.size()? {
        symbols.push(rest.text()?.into());
    }
    let mut index = BlockIndex {
        postings: Postings::default(),
        series: Vec::new(),
    };
    for id in 0..u32::try_from(rest.varint()?).ok()? {
        let mut pairs = Vec::new();
        for _ in 0..rest.size()? {
            let name = symbols.get(rest.size()?)?.clone();
            pairs.push((name, symbols.get(rest.size()?)?.clone()));
        }
        let offset = rest.varint()?;
        let mut chunks = Vec::new();
        for _ in 0..rest.size()? {
            let min = rest.signed()?;
            chunks.push(Meta {
                min,
                max: min.wrapping_add(rest.signed()?),
                count: u16::try_from(rest.varint()?).ok()?,
                length: u32::try_from(rest.varint()?).ok()?,
            });
        }
        let labels = Labels::from_pairs(pairs);
        index.postings.add(id, &labels);
        index.series.push(BlockSeries {
            labels,
            offset,
            sum: rest.u32()?,
            chunks: chunks.into(),
        });
    }
    Some(index)
}

/// Opens the blocks of a folder, oldest first, and removes drafts. Returns what cannot be read too.
pub(crate) fn open_all(folder: &Path) -> io::Result<(Vec<Block>, Vec<PathBuf>)> {
    let (mut blocks, mut damaged) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("tmp") => fs::remove_file(&path)?,
            Some("block") => match Block::open(&path)? {
                Some(block) => blocks.push(block),
                None => damaged.push(path),
            },
            _ => {}
        }
    }
    blocks.sort_by_key(|block| block.number);
    Ok((blocks, damaged))
}
