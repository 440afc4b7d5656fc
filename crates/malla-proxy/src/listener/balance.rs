//! Connections spread over workers so that each has as many of a listener's as the others (`exact_balance`).
//!
//! Invariant: what [`Balance::pick`] counted is given back by the share it returned, whichever thread drops it.
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedSender, WeakUnboundedSender};

use super::manager::Command;

/// How many connections each worker has.
#[derive(Debug)]
pub struct Balance {
    open: Mutex<Vec<u64>>,
    /// Weak: a worker ends when the manager has let go of it.
    workers: Vec<WeakUnboundedSender<Command>>,
}

/// One connection of one worker; given back by its drop.
#[derive(Debug)]
pub struct Share {
    balance: Arc<Balance>,
    worker: usize,
}

impl Share {
    /// The worker that is to have the connection.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// How to tell that worker; `None` once it is gone.
    pub fn tell(&self) -> Option<UnboundedSender<Command>> {
        self.balance.workers.get(self.worker)?.upgrade()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.balance.lock();
        if let Some(open) = open.get_mut(self.worker) {
            *open = open.saturating_sub(1);
        }
    }
}

impl Balance {
    pub fn new(workers: &[UnboundedSender<Command>]) -> Self {
        Self {
            open: Mutex::new(vec![0; workers.len()]),
            workers: workers.iter().map(UnboundedSender::downgrade).collect(),
        }
    }

    /// Counts one more connection of the worker that has the fewest, the first of those.
    pub fn pick(self: &Arc<Self>) -> Share {
        let mut open = self.lock();
        let fewest = open.iter_mut().enumerate().min_by_key(|(_, open)| **open);
        let worker = fewest.map_or(0, |(worker, open)| {
            *open += 1;
            worker
        });
        drop(open);
        Share {
            balance: Arc::clone(self),
            worker,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::Balance;

    #[test]
    fn the_worker_with_the_fewest_is_next() {
        let workers: Vec<_> = (0..3).map(|_| mpsc::unbounded_channel().0).collect();
        let balance = Arc::new(Balance::new(&workers));
        let mut shares: Vec<_> = (0..7).map(|_| balance.pick()).collect();
        let of =
            |shares: &[super::Share]| shares.iter().map(super::Share::worker).collect::<Vec<_>>();
        assert_eq!(of(&shares), [0, 1, 2, 0, 1, 2, 0]);
        shares.retain(|share| share.worker() != 1);
        assert_eq!([balance.pick().worker(), balance.pick().worker()], [1, 1]);
    }
}
