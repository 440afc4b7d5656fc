//! Who is at the other end: what proxies of the mesh tell each other about their workloads.
//!
//! Over HTTP two headers say it, base64 of a protobuf `Struct`; over bytes a preamble does; of who is called the endpoint's
//! own metadata says most of it beforehand. All of it is told, not proved, and whoever can open a connection can tell
//! anything: it names series and nothing else, it is bounded before it is read, and no text of it is longer than a label.

mod cache;
mod decode;
mod own;

pub use cache::{KnownPeer, Peers};
pub use decode::{LONGEST as MOST_METADATA, Peer, decode_peer, decode_preamble};
pub use own::Own;

/// What a preamble begins with, before its length in four bytes and an `Any`.
pub const MAGIC: [u8; 4] = [0x3d, 0x23, 0x04, 0x67];
