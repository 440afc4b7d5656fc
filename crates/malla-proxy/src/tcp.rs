//! Bytes without HTTP: from a matched connection to an endpoint and back.
mod exchange;
mod metrics;
mod pump;
pub mod serve;
mod splice;

pub use self::pump::{Buffer, End, Limits, Totals, pump};
