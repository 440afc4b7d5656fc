//! Requests: from a decoded head to a finished answer and its record.
//!
//! Reading order: [`serve`] (a request's life as named phases), [`normalise`] and [`forwarded`] (what comes in),
//! [`authorise`] (who may go on), [`peers`] (who calls and who answers, as headers tell it),
//! [`rewrite`] (what goes on), [`send`] (tries, mirrors), [`timeouts`], [`answer`] and [`response`] (what goes back and when it is over), [`metrics`] (what is counted of it),
//! [`trace`] (spans), [`error`] (whose fault, which answer), [`upgrade`] (tunnels), [`connection`] (codecs and
//! their limits), [`preface`] (which codec), [`ending`] (what ends without a peer's help).

mod answer;
mod authorise;
pub mod body;
pub mod connection;
mod ending;
mod error;
mod exchange;
mod forwarded;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hash;
pub(crate) mod metrics;
mod mirror;
mod normalise;
mod path;
mod peers;
mod preface;
mod response;
mod retry;
mod rewrite;
pub(crate) mod selected;
mod send;
mod serve;
pub mod state;
mod timeouts;
pub(crate) mod trace;
mod upgrade;
