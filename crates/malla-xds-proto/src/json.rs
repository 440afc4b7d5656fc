//! Envoy's JSON and YAML, both ways, by the descriptors the build put beside this crate.
//!
//! Reading looks up the few types that a document uses (`schema`). Printing parses all descriptors (about a megabyte, several
//! once parsed) at the first use, so a proxy that is never asked for a dump does not pay for them.
//!
//! Reading is strict: an unknown field or type is an error that names its path. Printing never
//! fails: an `Any` of an unknown type is shown as its bytes.

mod encode;
mod print;
mod read;
mod schema;

use std::sync::{Mutex, PoisonError};

use prost_reflect::DescriptorPool;

pub use print::{print, print_any, print_bytes, print_encoded};
pub use read::{JsonError, Unique, any_from_value, from_value, from_yaml};

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
