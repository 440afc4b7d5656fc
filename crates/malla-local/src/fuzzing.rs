//! Parsers that only this crate uses, for `fuzz/`; compiled with `--cfg fuzzing` alone.

pub use crate::dns::fuzzing::{Outcome, dns, resolvers};
pub use crate::node::fuzzing::{expand, glob, health, images, log_line, milli};
