//! Metrics: labels, chunks, log, blocks, and the store that ties them together.

mod bits;
mod block;
pub mod chunk;
mod head;
pub mod labels;
pub mod matcher;
mod postings;
pub mod store;
pub(crate) mod wal;

pub use chunk::{STALE, Sample, is_stale};
pub use head::SeriesRef;
pub use labels::{Labels, NAME};
pub use matcher::{MatchOp, Matcher};
pub use store::{Appended, MetricStore, MetricsConfig, Row, SeriesData, StoreError, StoreStats};
