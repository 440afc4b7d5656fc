//! What a mesh measures: received, stored, asked for.
//!
//! | module | one line |
//! |---|---|
//! | [`metrics`] | the metric store: labels, Gorilla chunks, log, blocks, retention |

pub mod metrics;
