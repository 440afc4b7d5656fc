//! Maglev hashing (Eisenbud et al., NSDI 2016, listing 1, with weights), slot for slot Envoy's `MAGLEV`.
use xxhash_rust::xxh64::xxh64;

use super::Weighted;

const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct MaglevTable {
    slots: Vec<u32>,
}

struct Permutation {
    host: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

impl Permutation {
    fn slot(&self, size: u64) -> usize {
        ((self.offset + self.skip * self.next) % size) as usize
    }
}

impl MaglevTable {
    /// `size` is a prime (checked with the configuration), at most 5,000,011.
    pub(super) fn build(hosts: &[Weighted<'_>], size: u64) -> Self {
        if hosts.is_empty() || size < 2 {
            return Self { slots: Vec::new() };
        }
        let heaviest = hosts.iter().map(|host| host.weight).fold(0.0, f64::max);
        let mut entries: Vec<Permutation> = hosts
            .iter()
            .map(|host| Permutation {
                host: host.index,
                offset: xxh64(host.key.as_bytes(), 0) % size,
                skip: xxh64(host.key.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                weight: host.weight,
                target: 0.0,
            })
            .collect();
        let mut slots = vec![EMPTY; size as usize];
        let mut filled = 0;
        let mut iteration = 0.0;
        while filled < slots.len() {
            iteration += 1.0;
            for entry in &mut entries {
                if filled == slots.len() {
                    break;
                }
                // The heaviest host takes a slot in each round, one of a third of its weight in every third.
                if iteration * entry.weight < entry.target {
                    continue;
                }
                entry.target += heaviest;
                let mut slot = entry.slot(size);
                while slots[slot] != EMPTY {
                    entry.next += 1;
                    slot = entry.slot(size);
                }
                slots[slot] = entry.host;
                entry.next += 1;
                filled += 1;
            }
        }
        Self { slots }
    }

    /// `attempt` counts refused choices of the same request: each turns most bits of the hash over.
    pub(super) fn choose(&self, hash: u64, attempt: u64) -> Option<usize> {
        let hash = if attempt > 0 {
            hash ^ (u64::MAX - attempt + 1)
        } else {
            hash
        };
        let slot = hash.checked_rem(self.slots.len() as u64)?;
        self.slots.get(slot as usize).map(|&host| host as usize)
    }
}
