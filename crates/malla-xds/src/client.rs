//! The consuming end.
//!
//! A [`ResourceHandler`] understands resources; a [`stream::ClientStream`] speaks the protocol, across
//! reconnects; [`AdsClient`] runs the two over a [`crate::transport::Transport`] in a task of its own,
//! so nothing that serves traffic ever waits for it.

pub mod handler;
mod shell;
pub mod status;
pub mod stream;
mod subscription;

pub use handler::{Interest, Received, Rejection, ResourceHandler, Update, Verdict};
pub use shell::AdsClient;
pub use status::{Status, TypeStatus};
pub use stream::{ClientConfig, Event};
