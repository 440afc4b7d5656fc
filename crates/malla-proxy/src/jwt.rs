//! JSON Web Tokens (RFC 7519): parsed, verified against key sets (RFC 7517), told apart by Envoy's words.
//!
//! Reading order: [`status`] (what can be wrong), [`token`] (parsing, moments, audiences), [`keys`] (key sets and
//! signatures), [`provider`] (a provider as one worker has it: keys fetched, good tokens kept).
//!
//! Invariants: nothing of a token is believed before its signature holds, except what says which key to take; the key's
//! type decides which algorithms it may verify, never the token alone; `none` is no algorithm here.

pub mod keys;
pub(crate) mod provider;
pub mod status;
pub mod token;
