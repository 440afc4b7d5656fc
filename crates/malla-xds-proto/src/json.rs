//! Envoy's JSON and YAML, both ways, by the descriptors the build put beside this crate.
//!
//! The descriptors (about a megabyte, several once parsed) are loaded at the first use, so a proxy
//! that is configured over xDS and never asked for a dump does not pay for them.
//!
//! Reading is strict: an unknown field or type is an error that names its path. Printing never
//! fails: an `Any` of an unknown type is shown as its bytes.

mod print;
mod read;

use std::sync::{Mutex, PoisonError};

use prost_reflect::DescriptorPool;

pub use print::{print, print_any, print_bytes};
pub use read::{JsonError, any_from_value, from_value, from_yaml};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// Descriptors of every message this crate knows; cheap to clone.
pub fn pool() -> DescriptorPool {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let decode =
        || DescriptorPool::decode(DESCRIPTORS).expect("the build wrote a complete descriptor set");
    pool.get_or_insert_with(decode).clone()
}

/// Gives the descriptors' memory back; the next use parses them again.
pub fn release() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
