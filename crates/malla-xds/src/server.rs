//! The serving end.
//!
//! A [`ResourceSource`] says who may connect and what each node gets; a [`stream::ServerStream`] per
//! connection decides what to send when; [`AdsServer`] runs them and remembers what each proxy has
//! acknowledged.

mod delta;
pub mod facts;
mod held;
mod questions;
mod shell;
mod sotw;
pub mod source;
pub mod stream;
mod subscription;

pub use facts::{ConnectionFacts, StreamFacts, TypeFacts};
pub use shell::{AdsServer, Responses, ServerOptions};
pub use source::{Answer, Hello, NodeHandle, ResourceSource};
pub use stream::Event;
