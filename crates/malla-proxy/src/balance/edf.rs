//! Weighted order by earliest deadline first: entry `i` comes every `1/weight` of virtual time.
//!
//! Invariant: an entry is in the heap exactly once, so every non-zero weight is served in the long run in proportion.
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
pub(super) struct Edf {
    heap: BinaryHeap<Entry>,
    now: f64,
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// First come, first served among equal deadlines.
    turn: u64,
    index: usize,
    weight: f64,
}

impl Edf {
    /// Entries with a weight of zero (or less) are never served.
    pub(super) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut edf = Self {
            heap: BinaryHeap::new(),
            now: 0.0,
            turn: 0,
        };
        for (index, weight) in weights.into_iter().enumerate() {
            if weight > 0.0 {
                edf.push(index, weight);
            }
        }
        edf
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The next entry; `reweigh` gives its weight from now on (given its index and its former weight).
    pub(super) fn next(&mut self, reweigh: impl Fn(usize, f64) -> f64) -> Option<usize> {
        let entry = self.heap.pop()?;
        self.now = entry.deadline;
        let weight = reweigh(entry.index, entry.weight);
        self.push(
            entry.index,
            if weight > 0.0 { weight } else { entry.weight },
        );
        Some(entry.index)
    }

    fn push(&mut self, index: usize, weight: f64) {
        self.turn += 1;
        self.heap.push(Entry {
            deadline: self.now + 1.0 / weight,
            turn: self.turn,
            index,
            weight,
        });
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: `BinaryHeap` pops the greatest.
        other
            .deadline
            .total_cmp(&self.deadline)
            .then(other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
