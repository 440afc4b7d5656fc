//! What end-to-end tests share: a running demo, `kubectl` and `curl` as users have them, and waiting
//! for a condition with a deadline.

pub mod curl;
pub mod demo;
pub mod wait;

pub use curl::{Answer, Request};
pub use demo::Demo;
pub use wait::eventually;
