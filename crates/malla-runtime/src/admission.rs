//! Bounds on accepted connections, so that peers who say nothing cannot keep others out.
//!
//! A connection is *idle* until its owner has a reason to keep it, such as a peer that proved who it
//! is. Invariants: there are never more than [`Limits::total`] connections, nor
//! more than [`Limits::per_peer`] idle ones of one address; a new connection takes the place of the
//! oldest idle one, first of its own peer, then of the peer with the most; where none is idle, the
//! new one is refused. What stays idle for [`Limits::idle`] is closed, however many bytes it sends;
//! where nobody proves anything, an answered request starts that time anew.

mod guarded;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub use guarded::Guarded;

use crate::log::Throttle;

/// A failing `accept` is tried again after this time: usually the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How many connections a port has.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub total: usize,
    /// Idle connections of one IP address.
    pub per_peer: usize,
    /// An idle connection is closed after this time; `None` leaves it until its place is needed.
    pub idle: Option<Duration>,
}

/// Lets connections of one port in. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    table: Mutex<Table>,
    warnings: Throttle,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    connections: HashMap<u64, watch::Sender<State>>,
    /// Numbers grow with time, so the first is the oldest.
    idle: BTreeMap<u64, IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Kept,
    Evicted,
}

/// One connection's place; dropping it makes room.
#[derive(Debug)]
struct Place {
    keeper: Keeper,
    state: watch::Receiver<State>,
}

/// Says that a connection is worth keeping. Keeps no place itself.
#[derive(Debug, Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
    number: u64,
}

impl Admission {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                limits,
                table: Mutex::default(),
                warnings: Throttle::default(),
            }),
        }
    }

    /// The next connection that is let in. Errors of `accept` are waited out; cancel-safe.
    pub async fn accept(&self, listener: &TcpListener) -> (Guarded<TcpStream>, SocketAddr) {
        self.accept_from(|| listener.accept()).await
    }

    async fn accept_from<S, F>(&self, mut accept: impl FnMut() -> F) -> (Guarded<S>, SocketAddr)
    where
        F: Future<Output = io::Result<(S, SocketAddr)>>,
    {
        loop {
            match accept().await {
                Ok((io, remote)) => match self.admit(remote.ip()) {
                    Some(place) => {
                        return (Guarded::new(io, place, self.shared.limits.idle), remote);
                    }
                    None => self.warn("too many connections, a new one is refused"),
                },
                Err(error) => {
                    self.warn(&format!("cannot accept a connection: {error}"));
                    self.shared.table().evict_any();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn admit(&self, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut table = self.shared.table();
        table.make_room(peer, &self.shared.limits)?;
        let number = table.next;
        table.next += 1;
        let (state, receiver) = watch::channel(State::Idle);
        table.connections.insert(number, state);
        table.idle.insert(number, peer);
        Some(Place {
            keeper: Keeper {
                shared: Arc::clone(&self.shared),
                number,
            },
            state: receiver,
        })
    }

    fn warn(&self, what: &str) {
        if let Some(skipped) = self.shared.warnings.allow(what) {
            tracing::warn!(skipped, "{what}");
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// `None` when every place is taken by a connection that is not idle.
    fn make_room(&mut self, peer: IpAddr, limits: &Limits) -> Option<()> {
        let own = self.idle.values().filter(|known| **known == peer).count();
        if own >= limits.per_peer.max(1) {
            return self.evict_oldest(peer);
        }
        if self.connections.len() >= limits.total.max(1) {
            return self.evict_any();
        }
        Some(())
    }

    /// Evicts of whoever has the most idle connections.
    fn evict_any(&mut self) -> Option<()> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for peer in self.idle.values() {
            *counts.entry(*peer).or_default() += 1;
        }
        let (peer, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        self.evict_oldest(peer)
    }

    fn evict_oldest(&mut self, peer: IpAddr) -> Option<()> {
        let (number, _) = self.idle.iter().find(|(_, known)| **known == peer)?;
        let number = *number;
        self.remove(number)?.send_replace(State::Evicted);
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<watch::Sender<State>> {
        self.idle.remove(&number);
        self.connections.remove(&number)
    }
}

impl Keeper {
    /// Keeps the connection for all its life: it is not idle any more.
    pub fn keep(&self) {
        let mut table = self.shared.table();
        table.idle.remove(&self.number);
        if let Some(state) = table.connections.get(&self.number) {
            state.send_replace(State::Kept);
        }
    }

    /// The connection was of use: its idle time starts anew. It may still have to make room.
    pub fn touch(&self) {
        if let Some(state) = self.shared.table().connections.get(&self.number) {
            state.send_modify(|_| ());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.keeper.shared.table();
        drop(table.remove(self.keeper.number));
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    const IDLE: Duration = Duration::from_millis(50);

    fn admission(total: usize, per_peer: usize) -> Admission {
        Admission::new(Limits {
            total,
            per_peer,
            idle: Some(IDLE),
        })
    }

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn evicted(place: &Place) -> bool {
        *place.state.borrow() == State::Evicted
    }

    #[test]
    fn a_silent_crowd_makes_room_for_itself_and_for_others() {
        let admission = admission(4, 3);
        let mut crowd: Vec<Place> = (0..3).filter_map(|_| admission.admit(peer(1))).collect();
        let other = admission.admit(peer(2)).unwrap();
        crowd.push(admission.admit(peer(1)).unwrap());
        assert!(evicted(&crowd[0]), "its own oldest");
        let third = admission.admit(peer(3)).unwrap();
        assert!(evicted(&crowd[1]), "of the peer with the most");
        assert!(
            ![&crowd[2], &crowd[3], &other, &third]
                .map(evicted)
                .contains(&true)
        );
    }

    #[test]
    fn who_is_kept_stays_and_the_new_one_is_refused() {
        let admission = admission(2, 2);
        let kept = admission.admit(peer(1)).unwrap();
        kept.keeper.keep();
        let silent = admission.admit(peer(1)).unwrap();
        let second = admission.admit(peer(2)).unwrap();
        assert!(evicted(&silent) && !evicted(&kept));
        second.keeper.keep();
        assert!(admission.admit(peer(3)).is_none());
        drop((kept, silent, second));
        assert!(admission.shared.table().connections.is_empty());
        assert!(admission.shared.table().idle.is_empty());
    }

    #[tokio::test]
    async fn a_failing_accept_is_not_tried_in_a_tight_loop() {
        let admission = admission(2, 2);
        let (near, _far) = duplex(64);
        let mut answers = vec![
            Ok((near, SocketAddr::new(peer(1), 7))),
            Err(io::Error::from_raw_os_error(24)),
            Err(io::Error::from_raw_os_error(24)),
        ];
        let begun = Instant::now();
        let (_io, remote): (Guarded<DuplexStream>, _) = admission
            .accept_from(|| ready(answers.pop().unwrap()))
            .await;
        assert_eq!(remote.ip(), peer(1));
        assert!(begun.elapsed() >= 2 * ACCEPT_RETRY);
    }

    #[tokio::test]
    async fn the_idle_time_starts_anew_with_use_and_ends_the_connection() {
        let admission = admission(2, 2);
        let (near, _far) = duplex(64);
        let place = admission.admit(peer(1)).unwrap();
        let mut io = Guarded::new(near, place, Some(IDLE));
        let mut byte = [0];
        let begun = Instant::now();
        let halfway = tokio::time::timeout(IDLE / 2, io.read(&mut byte));
        assert!(halfway.await.is_err());
        io.keeper().touch();
        let error = io.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= IDLE + IDLE / 2);
    }

    #[tokio::test]
    async fn who_is_kept_may_be_silent() {
        let admission = admission(2, 2);
        let (near, _far) = duplex(64);
        let mut io = Guarded::new(near, admission.admit(peer(1)).unwrap(), Some(IDLE));
        io.keeper().keep();
        io.keeper().touch();
        let mut byte = [0];
        let reading = tokio::time::timeout(3 * IDLE, io.read(&mut byte));
        assert!(reading.await.is_err());
    }
}
