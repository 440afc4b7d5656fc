//! Bytes without HTTP: from a matched connection to an endpoint and back.
mod exchange;
mod metrics;
mod pump;
pub mod serve;
mod splice;
mod tunnel;

pub use self::pump::{Buffer, End, Limits, Side, Totals, pump};
