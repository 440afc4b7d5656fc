//! Room for recursive third-party code.
//!
//! The CEL parser takes up to a hundred KiB of stack per nesting level (debug build); the stacks of async workers are too small
//! for rules people really write. Work on rules runs on a thread of its own, joined before the caller goes on.

use std::panic::resume_unwind;
use std::thread;

/// Reserved address space, not memory: pages are taken as they are touched.
const STACK_BYTES: usize = 128 << 20;

/// Runs `work` on a deep stack; on this thread's if no other can be had.
pub(super) fn deep<T: Send>(work: impl Fn() -> T + Sync) -> T {
    thread::scope(|scope| {
        let builder = thread::Builder::new()
            .name("schema".to_owned())
            .stack_size(STACK_BYTES);
        match builder.spawn_scoped(scope, &work) {
            Ok(handle) => handle.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => work(),
        }
    })
}
