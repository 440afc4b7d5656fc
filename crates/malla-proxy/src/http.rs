//! Requests: from a decoded head to a finished answer and its record.
//!
//! Reading order: [`serve`] (a request's life as named phases), [`normalise`] and [`forwarded`] (what comes in),
//! [`crate::filter`] (who may go on), [`client_body`] and [`adaptor`] (bodies that filters read or change), [`peers`] (who calls and who answers, as headers tell it),
//! [`rewrite`] (what goes on), [`send`] (tries, mirrors), [`timeouts`], [`answer`], [`local_reply`] and [`response`] (what goes back and when it is over), [`metrics`] (what is counted of it),
//! [`trace`] (spans), [`error`] (whose fault, which answer), [`upgrade`] (tunnels), [`connection`] (codecs and
//! their limits), [`preface`] (which codec), [`guard`] (what its HTTP/1 half may see), [`ending`] (what ends without a peer's help).

pub(crate) mod adaptor;
pub(crate) mod answer;
pub mod body;
pub(crate) mod client_body;
pub mod connection;
mod ending;
pub(crate) mod error;
pub(crate) mod exchange;
mod forwarded;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod hash;
mod local_reply;
pub(crate) mod metrics;
mod mirror;
mod normalise;
mod path;
mod peers;
mod preface;
mod redirect;
pub(crate) mod response;
mod retry;
pub(crate) mod rewrite;
pub(crate) mod selected;
pub(crate) mod send;
pub(crate) mod serve;
pub mod state;
mod timeouts;
pub(crate) mod trace;
mod upgrade;

pub(crate) use self::hash::source_ip;
