//! Addresses of pods.
//!
//! Invariant: an address is handed out again only after all others were, so that stale
//! connections and caches do not meet a new pod.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// All addresses of a range are taken.
#[derive(Debug, thiserror::Error)]
#[error("no pod address is left in {0}: delete pods, or start the cluster with a larger pod range")]
pub struct PoolExhausted(Ipv4Net);

/// The pod addresses of one node.
#[derive(Debug)]
pub struct AddressPool {
    range: Ipv4Net,
    taken: BTreeSet<Ipv4Addr>,
    last: Ipv4Addr,
}

impl AddressPool {
    /// A pool over the host addresses of `range`; the first is the node's own.
    pub fn new(range: Ipv4Net) -> Self {
        let node = Self::node_address(range);
        Self {
            range,
            taken: BTreeSet::from([node]),
            last: node,
        }
    }

    /// The node's address in a pod range.
    pub fn node_address(range: Ipv4Net) -> Ipv4Addr {
        range.hosts().next().unwrap_or(range.addr())
    }

    /// Takes a free address.
    pub fn take(&mut self) -> Result<Ipv4Addr, PoolExhausted> {
        let after = self.range.hosts().filter(|address| *address > self.last);
        let again = self.range.hosts().filter(|address| *address <= self.last);
        let free = after
            .chain(again)
            .find(|address| !self.taken.contains(address))
            .ok_or(PoolExhausted(self.range))?;
        self.taken.insert(free);
        self.last = free;
        Ok(free)
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::AddressPool;

    #[test]
    fn a_released_address_waits_its_turn() {
        let mut pool = AddressPool::new("10.0.0.0/29".parse().unwrap());
        let taken: Vec<_> = (0..5).map(|_| pool.take().unwrap().to_string()).collect();
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(taken, all);
        assert!(pool.take().is_err());
        pool.release("10.0.0.4".parse().unwrap());
        pool.release("10.0.0.3".parse().unwrap());
        assert_eq!(pool.take().unwrap().to_string(), "10.0.0.3");
        pool.release("10.0.0.3".parse().unwrap());
        assert_eq!(pool.take().unwrap().to_string(), "10.0.0.4");
    }
}
