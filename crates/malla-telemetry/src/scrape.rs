//! Fetching metrics: the text format, what a target remembers, and the loop that keeps the store
//! fed from a changing list of targets.

mod metadata;
mod run;
pub mod target;
pub mod text;

pub use metadata::{About, Metadata};
pub use run::{ScrapeConfig, ScrapeStats, Scraper, TargetHealth};
pub use target::Target;
