//! The allocator and how it is set up.
#![allow(unsafe_code)]

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// jemalloc's options (`malloc_conf`): what was freed goes back to the system after seconds, in a thread of its own, also
/// when nothing is allocated any more. `MALLOC_CONF` in the environment has the last word.
// SAFETY: jemalloc reads a `const char *` of this name; a reference to an array is one, and the text ends with a zero byte.
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; 63] = b"background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:1000\0";
