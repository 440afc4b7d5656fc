//! The service graph: who called whom during a window, from Istio's standard metrics.
//!
//! Both ends of a call report it. Rates, errors and latency are taken from the caller's side where
//! it reports (it sees failures that never arrive), as Kiali does; mutual TLS from the side that was
//! called, because only it knows.

mod collect;
mod model;

use std::collections::BTreeSet;
use std::str::FromStr;

pub use model::{Edge, Graph, Node, NodeKind, Protocol};

use crate::promql::{Cancel, Engine, QueryError};

/// What a node stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    #[default]
    Service,
    Workload,
    Version,
}

impl FromStr for View {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "service" => Ok(Self::Service),
            "workload" => Ok(Self::Workload),
            "version" => Ok(Self::Version),
            _ => Err("service, workload or version is expected".to_owned()),
        }
    }
}

/// Which graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GraphQuery {
    /// Milliseconds; made longer when it holds fewer than two scrapes.
    pub window: i64,
    /// Unix milliseconds.
    pub end: i64,
    pub view: View,
    /// Only edges that touch one of these; all when empty.
    pub namespaces: Vec<String>,
    /// Namespace and workload (or `app`) of gateways.
    pub gateways: BTreeSet<(String, String)>,
}

/// Builds the graph. Blocks: run it off the async threads.
///
/// # Errors
/// See [`QueryError`].
pub fn build(engine: &Engine, query: &GraphQuery, cancel: &Cancel) -> Result<Graph, QueryError> {
    let mut collected = collect::Collected::new(query);
    for (metric, use_of) in collect::METRICS {
        let text = collect::query(metric, query.window);
        collected.add(*use_of, engine.instant(&text, query.end, cancel)?);
    }
    Ok(collected.finish())
}

#[cfg(test)]
mod tests;
