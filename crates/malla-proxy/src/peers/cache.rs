//! What was read of peers, kept by what it was read from: each peer is decoded once and not for each request.
//!
//! Invariant: bounded in entries and in bytes. Two generations: when the young one is full it becomes the old one, whose
//! entries come back when they are asked for again; what nobody asks for goes with the next change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;

use foldhash::quality::RandomState;

use super::decode::{LONGEST, Peer, decode_peer, decode_preamble};

/// Of one generation.
const MOST_ENTRIES: usize = 1024;
const MOST_BYTES: usize = 1 << 20;

/// A peer, with the hash of what metrics name of it.
#[derive(Debug)]
pub struct KnownPeer {
    pub peer: Peer,
    pub hash: u64,
}

impl PartialEq for KnownPeer {
    /// The pod's name is in no standard label, so pods of one workload are one peer.
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.peer, &other.peer);
        self.hash == other.hash
            && a.namespace == b.namespace
            && a.workload == b.workload
            && a.app == b.app
            && a.version == b.version
            && a.service == b.service
            && a.revision == b.revision
            && a.cluster == b.cluster
    }
}

/// One worker's peers.
#[derive(Debug, Default)]
pub struct Peers {
    hasher: RandomState,
    headers: RefCell<Generations>,
    endpoints: RefCell<Generations>,
    preambles: RefCell<Generations>,
}

impl Peers {
    /// The peer that a header `x-envoy-peer-metadata` tells of.
    pub fn of_header(&self, header: &[u8]) -> Option<Rc<KnownPeer>> {
        if header.len() > LONGEST {
            return None;
        }
        let mut known = self.headers.borrow_mut();
        known.get(header, || decode_peer(header).map(|peer| self.known(peer)))
    }

    /// The peer that an endpoint's `istio.workload` tells of.
    pub fn of_endpoint(&self, workload: &str) -> Option<Rc<KnownPeer>> {
        let mut known = self.endpoints.borrow_mut();
        known.get(workload.as_bytes(), || {
            Some(self.known(Peer::from_endpoint(workload)))
        })
    }

    /// The peer that the `Any` of a preamble tells of.
    pub fn of_preamble(&self, any: &[u8]) -> Option<Rc<KnownPeer>> {
        // Apart from headers: the same bytes would mean something else there.
        let mut known = self.preambles.borrow_mut();
        known.get(any, || decode_preamble(any).map(|peer| self.known(peer)))
    }

    fn known(&self, peer: Peer) -> Rc<KnownPeer> {
        let mut hasher = self.hasher.build_hasher();
        let Peer {
            name: _,
            namespace,
            workload,
            app,
            version,
            service,
            revision,
            cluster,
        } = &peer;
        for text in [
            namespace, workload, app, version, service, revision, cluster,
        ] {
            text.hash(&mut hasher);
        }
        Rc::new(KnownPeer {
            hash: hasher.finish(),
            peer,
        })
    }
}

type Table = HashMap<Box<[u8]>, Option<Rc<KnownPeer>>, RandomState>;

#[derive(Debug, Default)]
struct Generations {
    young: Table,
    old: Table,
    /// Of the young ones' keys.
    bytes: usize,
}

impl Generations {
    fn get(
        &mut self,
        key: &[u8],
        make: impl FnOnce() -> Option<Rc<KnownPeer>>,
    ) -> Option<Rc<KnownPeer>> {
        if let Some(known) = self.young.get(key) {
            return known.clone();
        }
        let known = match self.old.remove(key) {
            Some(known) => known,
            None => make(),
        };
        if self.young.len() >= MOST_ENTRIES || self.bytes + key.len() > MOST_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += key.len();
        self.young.insert(key.into(), known.clone());
        known
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{MOST_BYTES, MOST_ENTRIES, Peers};

    #[test]
    fn a_peer_is_read_once_and_equal_peers_are_equal() {
        let peers = Peers::default();
        let first = peers.of_endpoint("cart;base;cart;v1;a").unwrap();
        let again = peers.of_endpoint("cart;base;cart;v1;a").unwrap();
        assert!(Rc::ptr_eq(&first, &again));
        let other = peers.of_endpoint("cart;base;cart;v2;a").unwrap();
        assert!(*first != *other);
    }

    #[test]
    fn hostile_headers_cannot_fill_memory() {
        let peers = Peers::default();
        for number in 0..3 * MOST_ENTRIES {
            assert!(peers.of_header(format!("!{number}").as_bytes()).is_none());
        }
        for number in 0..200 {
            let _ = peers.of_header(format!("{number:!>16000}").as_bytes());
        }
        let known = peers.headers.borrow();
        assert!(known.young.len() <= MOST_ENTRIES && known.old.len() <= MOST_ENTRIES);
        let bytes = |table: &super::Table| table.keys().map(|key| key.len()).sum::<usize>();
        assert!(bytes(&known.young) <= MOST_BYTES && bytes(&known.old) <= MOST_BYTES);
    }
}
