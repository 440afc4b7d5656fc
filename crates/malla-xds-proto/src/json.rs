//! Envoy's JSON and YAML, both ways, by the descriptors the build put beside this crate.
//!
//! The descriptors (about a megabyte, several once parsed) are loaded at the first use, so a proxy
//! that is configured over xDS and never asked for a dump does not pay for them.
//!
//! Reading is strict: an unknown field or type is an error that names its path. Printing never
//! fails: an `Any` of an unknown type is shown as its bytes.

mod print;
mod read;

use std::sync::OnceLock;

use prost_reflect::DescriptorPool;

pub use print::{print, print_any, print_bytes};
pub use read::{JsonError, any_from_value, from_value, from_yaml};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Descriptors of every message this crate knows.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the build wrote a complete descriptor set")
    })
}
