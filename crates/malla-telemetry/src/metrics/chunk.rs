//! Gorilla compression of one run of samples: delta-of-delta times and XORed values, with the bit
//! layouts Prometheus uses (Facebook's paper, "Gorilla: a fast, scalable, in-memory time series
//! database").
//!
//! Invariant: times in a chunk strictly increase. Reading foreign bytes ends early; it never panics.

use std::sync::Arc;

use crate::metrics::bits::{BitReader, BitWriter};

/// Samples a chunk holds before a new one is begun.
pub(crate) const FULL: u16 = 120;

/// One measured value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Unix time in milliseconds.
    pub t: i64,
    pub v: f64,
}

/// The value that says "this series ended here" (Prometheus' stale NaN).
pub const STALE: u64 = 0x7ff0_0000_0000_0002;

#[must_use]
pub fn is_stale(v: f64) -> bool {
    v.to_bits() == STALE
}

/// A finished run.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) count: u16,
    pub(crate) data: Arc<[u8]>,
}

impl Chunk {
    pub(crate) fn overlaps(&self, min: i64, max: i64) -> bool {
        self.min <= max && self.max >= min
    }
}

/// A run that still grows.
#[derive(Debug, Clone)]
pub(crate) struct ChunkBuilder {
    bits: BitWriter,
    count: u16,
    min: i64,
    max: i64,
    delta: i64,
    value: u64,
    leading: u8,
    trailing: u8,
}

/// "No window of meaningful bits yet".
const NO_WINDOW: u8 = 0xff;

impl ChunkBuilder {
    pub(crate) fn new(first: Sample) -> Self {
        let mut bits = BitWriter::with_capacity(128);
        bits.write(first.t as u64, 64);
        bits.write(first.v.to_bits(), 64);
        Self {
            bits,
            count: 1,
            min: first.t,
            max: first.t,
            delta: 0,
            value: first.v.to_bits(),
            leading: NO_WINDOW,
            trailing: 0,
        }
    }

    /// Adds a sample; its time must be later than the last one's.
    pub(crate) fn push(&mut self, sample: Sample) {
        let delta = sample.t.wrapping_sub(self.max);
        self.write_time(delta.wrapping_sub(self.delta));
        self.delta = delta;
        self.max = sample.t;
        self.write_value(sample.v.to_bits());
        self.count += 1;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count >= FULL
    }

    pub(crate) fn seal(&self) -> Chunk {
        Chunk {
            min: self.min,
            max: self.max,
            count: self.count,
            data: self.bits.bytes().into(),
        }
    }

    pub(crate) fn overlaps(&self, min: i64, max: i64) -> bool {
        self.min <= max && self.max >= min
    }

    fn write_time(&mut self, dod: i64) {
        match dod {
            0 => self.bits.write(0, 1),
            -8191..=8192 => {
                self.bits.write(0b10, 2);
                self.bits.write(dod as u64, 14);
            }
            -65535..=65536 => {
                self.bits.write(0b110, 3);
                self.bits.write(dod as u64, 17);
            }
            -524_287..=524_288 => {
                self.bits.write(0b1110, 4);
                self.bits.write(dod as u64, 20);
            }
            _ => {
                self.bits.write(0b1111, 4);
                self.bits.write(dod as u64, 64);
            }
        }
    }

    fn write_value(&mut self, value: u64) {
        let xor = value ^ self.value;
        self.value = value;
        if xor == 0 {
            self.bits.write(0, 1);
            return;
        }
        // At most 63 each, as xor is not zero; five bits hold at most 31 leading zeros.
        let leading = (xor.leading_zeros() as u8).min(31);
        let trailing = xor.trailing_zeros() as u8;
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            self.bits.write(0b10, 2);
            let length = 64 - self.leading - self.trailing;
            self.bits.write(xor >> self.trailing, length);
            return;
        }
        (self.leading, self.trailing) = (leading, trailing);
        let length = 64 - leading - trailing;
        self.bits.write(0b11, 2);
        self.bits.write(u64::from(leading), 5);
        // 64 does not fit into six bits and is written as 0, which cannot occur otherwise.
        self.bits.write(u64::from(length) & 63, 6);
        self.bits.write(xor >> trailing, length);
    }
}

/// Decodes `count` samples.
#[derive(Debug, Clone)]
pub(crate) struct Samples<'a> {
    bits: BitReader<'a>,
    left: u16,
    first: bool,
    t: i64,
    delta: i64,
    value: u64,
    leading: u8,
    trailing: u8,
}

impl<'a> Samples<'a> {
    pub(crate) fn new(data: &'a [u8], count: u16) -> Self {
        Self {
            bits: BitReader::new(data),
            left: count,
            first: true,
            t: 0,
            delta: 0,
            value: 0,
            leading: 0,
            trailing: 0,
        }
    }

    fn read(&mut self) -> Option<Sample> {
        if self.first {
            self.first = false;
            self.t = self.bits.read(64)? as i64;
            self.value = self.bits.read(64)?;
        } else {
            let dod = self.read_time()?;
            self.delta = self.delta.wrapping_add(dod);
            self.t = self.t.wrapping_add(self.delta);
            self.read_value()?;
        }
        Some(Sample {
            t: self.t,
            v: f64::from_bits(self.value),
        })
    }

    fn read_time(&mut self) -> Option<i64> {
        let bits = if !self.bits.bit()? {
            return Some(0);
        } else if !self.bits.bit()? {
            14
        } else if !self.bits.bit()? {
            17
        } else if !self.bits.bit()? {
            20
        } else {
            return Some(self.bits.read(64)? as i64);
        };
        let raw = self.bits.read(bits)? as i64;
        // The range is -(2^(n-1)-1) ..= 2^(n-1), as in Prometheus.
        let half = 1_i64 << (bits - 1);
        Some(if raw > half { raw - (half << 1) } else { raw })
    }

    fn read_value(&mut self) -> Option<()> {
        if !self.bits.bit()? {
            return Some(());
        }
        if self.bits.bit()? {
            let leading = self.bits.read(5)? as u8;
            let length = match self.bits.read(6)? as u8 {
                0 => 64,
                length => length,
            };
            self.leading = leading;
            self.trailing = 64_u8.checked_sub(leading)?.checked_sub(length)?;
        }
        let length = 64 - self.leading - self.trailing;
        self.value ^= self.bits.read(length)? << self.trailing;
        Some(())
    }
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        self.left = self.left.checked_sub(1)?;
        let sample = self.read();
        if sample.is_none() {
            self.left = 0;
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn round_trip(samples: &[Sample]) -> Vec<Sample> {
        let mut builder = ChunkBuilder::new(samples[0]);
        for sample in &samples[1..] {
            builder.push(*sample);
        }
        let chunk = builder.seal();
        Samples::new(&chunk.data, chunk.count).collect()
    }

    fn bits(samples: &[Sample]) -> Vec<(i64, u64)> {
        samples.iter().map(|s| (s.t, s.v.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn samples_come_back_bit_by_bit(
            start in -1_000_000_i64..2_000_000_000_000,
            steps in prop::collection::vec((1_i64..2_000_000, any::<u64>()), 1..120),
        ) {
            let mut t = start;
            let samples: Vec<Sample> = steps
                .iter()
                .map(|(step, v)| {
                    t += step;
                    Sample { t, v: f64::from_bits(*v) }
                })
                .collect();
            prop_assert_eq!(bits(&round_trip(&samples)), bits(&samples));
        }

        #[test]
        fn foreign_bytes_end_early(data: Vec<u8>, count: u16) {
            let read = Samples::new(&data, count).count();
            assert!(read <= usize::from(count));
        }
    }

    #[test]
    fn a_steady_counter_takes_few_bytes() {
        let samples: Vec<Sample> = (0..120)
            .map(|i| Sample {
                t: 1_700_000_000_000 + i * 15_000,
                v: (i * 37) as f64,
            })
            .collect();
        let mut builder = ChunkBuilder::new(samples[0]);
        samples[1..].iter().for_each(|s| builder.push(*s));
        let length = builder.seal().data.len();
        assert!(length < 120 * 4, "{length} bytes");
    }
}
