//! Ketama consistent hashing, point for point Envoy's `RING_HASH`.
//!
//! Each host owns points at `xxHash64("<key>_<i>")`; a request goes to the first point at or after its hash, and past
//! the last point to the first.
use xxhash_rust::xxh64::xxh64;

use super::Weighted;

#[derive(Debug)]
pub(super) struct Ring {
    /// Sorted by hash.
    points: Vec<(u64, u32)>,
}

impl Ring {
    pub(super) fn build(
        hosts: &[Weighted<'_>],
        minimum_size: u64,
        maximum_size: u64,
        murmur: bool,
    ) -> Self {
        let lightest = hosts
            .iter()
            .map(|host| host.weight)
            .fold(f64::INFINITY, f64::min);
        if hosts.is_empty() {
            return Self { points: Vec::new() };
        }
        // The lightest host gets a whole number of points; capped by the maximum.
        let scale = ((lightest * minimum_size as f64).ceil() / lightest).min(maximum_size as f64);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let mut key = Vec::with_capacity(64);
        // Running sums, so that fractions carry over from host to host.
        let (mut placed, mut target) = (0.0f64, 0.0f64);
        for host in hosts {
            key.clear();
            key.extend_from_slice(host.key.as_bytes());
            key.push(b'_');
            let stem = key.len();
            target += scale * host.weight;
            let mut i = 0u64;
            while placed < target {
                key.truncate(stem);
                key.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
                let hash = if murmur {
                    murmur2(&key, STD_HASH_SEED)
                } else {
                    xxh64(&key, 0)
                };
                points.push((hash, host.index));
                i += 1;
                placed += 1.0;
            }
        }
        points.sort_by_key(|&(hash, _)| hash);
        points.shrink_to_fit();
        Self { points }
    }

    /// `attempt` counts refused choices of the same request: each steps one point further.
    pub(super) fn choose(&self, hash: u64, attempt: u64) -> Option<usize> {
        let size = self.points.len();
        let at = self.points.partition_point(|&(point, _)| point < hash);
        // A hash of zero can equal no point's predecessor in Envoy's search and wraps to the start like the rest.
        let at = if at == size { 0 } else { at };
        let at = (at as u64).wrapping_add(attempt).checked_rem(size as u64)?;
        self.points.get(at as usize).map(|&(_, host)| host as usize)
    }
}

/// The seed libstdc++ hashes strings with, which Envoy's `MURMUR_HASH_2` takes over.
const STD_HASH_SEED: u64 = 0xc70f_6907;

/// MurmurHash64A (Austin Appleby, public domain).
fn murmur2(key: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = seed ^ (key.len() as u64).wrapping_mul(M);
    let (words, tail) = key.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 47;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let mut last = [0u8; 8];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(M);
    hash ^ (hash >> 47)
}

#[cfg(test)]
mod tests {
    use super::{STD_HASH_SEED, murmur2};

    /// Values of `std::hash<std::string>` in libstdc++ on 64 bits.
    #[test]
    fn murmur_hashes_as_libstdcxx() {
        assert_eq!(murmur2(b"hello", STD_HASH_SEED), 2_762_169_579_135_187_400);
        assert_eq!(murmur2(b"world", STD_HASH_SEED), 8_751_027_807_033_337_960);
    }
}
