//! Numbers of any bit length in a byte string, and variable-length integers.
//!
//! Invariant: reading never panics; it ends with `None` where the bytes end.

/// Appends bits, most significant first.
#[derive(Debug, Clone, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// Unused low bits of the last byte.
    free: u8,
}

impl BitWriter {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            free: 0,
        }
    }

    /// Writes the low `count` bits of `value`; `count` is at most 64.
    pub(crate) fn write(&mut self, value: u64, count: u8) {
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let part = (value >> (left - take)) & ((1_u64 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                // At most eight bits, shifted within the byte.
                *last |= (part << (self.free - take)) as u8;
            }
            self.free -= take;
            left -= take;
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads what [`BitWriter`] wrote.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits already taken from the front.
    buffer: u64,
    valid: u8,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            buffer: 0,
            valid: 0,
        }
    }

    /// The next `count` bits, at most 64.
    pub(crate) fn read(&mut self, count: u8) -> Option<u64> {
        if count > 32 {
            let high = self.read_short(count - 32)?;
            return Some((high << 32) | self.read_short(32)?);
        }
        self.read_short(count)
    }

    pub(crate) fn bit(&mut self) -> Option<bool> {
        self.read_short(1).map(|bit| bit == 1)
    }

    fn read_short(&mut self, count: u8) -> Option<u64> {
        while self.valid < count {
            let (&next, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            self.buffer = (self.buffer << 8) | u64::from(next);
            self.valid += 8;
        }
        self.valid -= count;
        Some((self.buffer >> self.valid) & ((1_u64 << count) - 1))
    }
}

/// Maps small negative numbers to small positive ones.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Walks a byte string from its front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteReader<'a>(pub(crate) &'a [u8]);

impl<'a> ByteReader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn size(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        self.varint().map(unzigzag)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.size()?;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in prop::collection::vec((any::<u64>(), 1_u8..=64), 0..60)) {
            let mut out = BitWriter::default();
            for (value, count) in &parts {
                out.write(*value, *count);
            }
            let mut back = BitReader::new(out.bytes());
            for (value, count) in &parts {
                let mask = if *count == 64 { u64::MAX } else { (1 << count) - 1 };
                prop_assert_eq!(back.read(*count), Some(value & mask));
            }
        }

        #[test]
        fn varints_come_back(value: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, zigzag(value));
            prop_assert_eq!(ByteReader(&out).signed(), Some(value));
        }
    }
}
