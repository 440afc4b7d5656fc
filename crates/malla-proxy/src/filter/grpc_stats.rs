//! Counts gRPC calls and their messages under the names of Envoy's `envoy.filters.http.grpc_stats`.
//!
//! Invariant: names of methods come from clients, so a worker keeps so many at most; calls of others are counted together.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::http_filter::{GrpcStats, GrpcStatsMethods};
use malla_proxy_config::route::matcher::is_grpc;

use crate::http::exchange::Exchange;
use crate::telemetry::istio::grpc::Messages;
use crate::telemetry::record::GrpcCall;
use crate::upstream::Upstreams;

/// Names of methods that a manager keeps in one worker.
const MOST_NAMES: usize = 2000;

/// Counts a call from here on, if the request is one.
pub(super) fn begin<U: Upstreams>(x: &mut Exchange<U>, config: &GrpcStats) {
    let Some(cluster) = x.observer.record().cluster.clone() else {
        return;
    };
    if !is_grpc(&x.head.headers) {
        return;
    }
    let named = config.named(x.view().path).map(|(service, method)| {
        // Those that are listed keep their names, as in Envoy.
        let all = config.methods == GrpcStatsMethods::All;
        let service = match config.replace_dots && all {
            true => service.replace('.', "_"),
            false => service.to_owned(),
        };
        format!("{}.grpc.{service}.{method}", cluster.stat_name)
    });
    if named.is_none() && config.methods == GrpcStatsMethods::All {
        return; // No method: Envoy counts nothing then.
    }
    let manager = Rc::clone(&x.cx.manager);
    let together = || Arc::from(format!("{}.grpc", cluster.stat_name));
    let name = match named {
        Some(name) if manager.grpc_calls.may_have(&name, MOST_NAMES) => Arc::from(name),
        _ => together(),
    };
    let stats = manager
        .grpc_calls
        .get(&name, || x.cx.worker.stats().grpc_call(&name));
    let asked = Rc::new(Cell::default());
    if let Some(body) = &mut x.body {
        body.count_messages(Rc::clone(&asked));
    }
    x.record().grpc_call = Some(Box::new(GrpcCall {
        stats,
        asked,
        answered: Messages::default(),
        answers: false,
        timed: config.times,
    }));
}
