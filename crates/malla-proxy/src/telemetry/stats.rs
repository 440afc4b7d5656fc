//! Counters and gauges with Envoy's names: one writer each, summed over workers on scrape.
//!
//! A worker gets its own [`ClusterStats`] and [`HttpStats`] from the shared [`Registry`]; getting one takes a lock and
//! happens when configuration arrives, not when requests do. Counting is a load and a store of an own cache line's
//! atomic: no locked instruction.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A number with a single writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes one off (gauges).
    pub fn dec(&self) {
        self.0.store(self.get().wrapping_sub(1), Ordering::Relaxed);
    }

    /// Sets it (gauges).
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value in this worker.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares a set of counters: the struct and its walk by Envoy name.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(#[doc = concat!("Envoy's `", $text, "`.")] pub $field: Count,)+
        }

        impl Counters for $name {
            fn walk(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $( visit($text, self.$field.get()); )+
            }
        }
    };
}

/// A set of counters that can list itself.
pub trait Counters: Default + Send + Sync + 'static {
    /// Visits each name and value.
    fn walk(&self, visit: &mut dyn FnMut(&'static str, u64));
}

counters! {
    /// `cluster.<name>.*`.
    ClusterStats {
        upstream_cx_total = "upstream_cx_total",
        upstream_cx_active = "upstream_cx_active",
        upstream_cx_http1_total = "upstream_cx_http1_total",
        upstream_cx_http2_total = "upstream_cx_http2_total",
        upstream_cx_connect_fail = "upstream_cx_connect_fail",
        upstream_cx_connect_timeout = "upstream_cx_connect_timeout",
        upstream_cx_connect_attempts_exceeded = "upstream_cx_connect_attempts_exceeded",
        upstream_cx_overflow = "upstream_cx_overflow",
        upstream_cx_destroy = "upstream_cx_destroy",
        upstream_cx_destroy_local = "upstream_cx_destroy_local",
        upstream_cx_destroy_remote = "upstream_cx_destroy_remote",
        upstream_cx_destroy_with_active_rq = "upstream_cx_destroy_with_active_rq",
        upstream_cx_idle_timeout = "upstream_cx_idle_timeout",
        upstream_cx_max_duration_reached = "upstream_cx_max_duration_reached",
        upstream_cx_max_requests = "upstream_cx_max_requests",
        upstream_cx_none_healthy = "upstream_cx_none_healthy",
        upstream_cx_protocol_error = "upstream_cx_protocol_error",
        upstream_cx_rx_bytes_total = "upstream_cx_rx_bytes_total",
        upstream_cx_tx_bytes_total = "upstream_cx_tx_bytes_total",
        upstream_rq_total = "upstream_rq_total",
        upstream_rq_active = "upstream_rq_active",
        upstream_rq_completed = "upstream_rq_completed",
        upstream_rq_pending_total = "upstream_rq_pending_total",
        upstream_rq_pending_active = "upstream_rq_pending_active",
        upstream_rq_pending_overflow = "upstream_rq_pending_overflow",
        upstream_rq_pending_failure_eject = "upstream_rq_pending_failure_eject",
        upstream_rq_cancelled = "upstream_rq_cancelled",
        upstream_rq_maintenance_mode = "upstream_rq_maintenance_mode",
        upstream_rq_timeout = "upstream_rq_timeout",
        upstream_rq_per_try_timeout = "upstream_rq_per_try_timeout",
        upstream_rq_max_duration_reached = "upstream_rq_max_duration_reached",
        upstream_rq_rx_reset = "upstream_rq_rx_reset",
        upstream_rq_tx_reset = "upstream_rq_tx_reset",
        upstream_rq_retry = "upstream_rq_retry",
        upstream_rq_retry_success = "upstream_rq_retry_success",
        upstream_rq_retry_overflow = "upstream_rq_retry_overflow",
        upstream_rq_retry_limit_exceeded = "upstream_rq_retry_limit_exceeded",
        upstream_rq_1xx = "upstream_rq_1xx",
        upstream_rq_2xx = "upstream_rq_2xx",
        upstream_rq_3xx = "upstream_rq_3xx",
        upstream_rq_4xx = "upstream_rq_4xx",
        upstream_rq_5xx = "upstream_rq_5xx",
        upstream_rq_200 = "upstream_rq_200",
        upstream_rq_404 = "upstream_rq_404",
        upstream_rq_500 = "upstream_rq_500",
        upstream_rq_502 = "upstream_rq_502",
        upstream_rq_503 = "upstream_rq_503",
        upstream_rq_504 = "upstream_rq_504",
        grpc_total = "grpc.total",
        grpc_success = "grpc.success",
        grpc_failure = "grpc.failure",
        bind_errors = "bind_errors",
        membership_change = "membership_change",
        membership_healthy = "membership_healthy",
        membership_total = "membership_total",
        lb_healthy_panic = "lb_healthy_panic",
        lb_recalculate_zone_structures = "lb_recalculate_zone_structures",
        update_attempt = "update_attempt",
        update_success = "update_success",
        update_failure = "update_failure",
        update_empty = "update_empty",
        update_no_rebuild = "update_no_rebuild",
        assignment_stale = "assignment_stale",
        outlier_ejections_active = "outlier_detection.ejections_active",
        outlier_ejections_enforced_total = "outlier_detection.ejections_enforced_total",
        outlier_ejections_detected_consecutive_5xx = "outlier_detection.ejections_detected_consecutive_5xx",
        outlier_ejections_enforced_consecutive_5xx = "outlier_detection.ejections_enforced_consecutive_5xx",
        outlier_ejections_detected_consecutive_gateway_failure = "outlier_detection.ejections_detected_consecutive_gateway_failure",
        outlier_ejections_enforced_consecutive_gateway_failure = "outlier_detection.ejections_enforced_consecutive_gateway_failure",
        outlier_ejections_detected_consecutive_local_origin_failure = "outlier_detection.ejections_detected_consecutive_local_origin_failure",
        outlier_ejections_enforced_consecutive_local_origin_failure = "outlier_detection.ejections_enforced_consecutive_local_origin_failure",
        outlier_ejections_overflow = "outlier_detection.ejections_overflow",
        default_cx_open = "circuit_breakers.default.cx_open",
        default_rq_open = "circuit_breakers.default.rq_open",
        default_rq_pending_open = "circuit_breakers.default.rq_pending_open",
        default_rq_retry_open = "circuit_breakers.default.rq_retry_open",
        high_cx_open = "circuit_breakers.high.cx_open",
        high_rq_open = "circuit_breakers.high.rq_open",
        high_rq_pending_open = "circuit_breakers.high.rq_pending_open",
        high_rq_retry_open = "circuit_breakers.high.rq_retry_open",
        ssl_handshake = "ssl.handshake",
        ssl_connection_error = "ssl.connection_error",
        ssl_fail_verify_san = "ssl.fail_verify_san",
        ssl_fail_verify_error = "ssl.fail_verify_error",
    }
}

counters! {
    /// `http.<stat_prefix>.*`.
    HttpStats {
        downstream_cx_total = "downstream_cx_total",
        downstream_cx_active = "downstream_cx_active",
        downstream_cx_http1_total = "downstream_cx_http1_total",
        downstream_cx_http1_active = "downstream_cx_http1_active",
        downstream_cx_http2_total = "downstream_cx_http2_total",
        downstream_cx_http2_active = "downstream_cx_http2_active",
        downstream_cx_upgrades_total = "downstream_cx_upgrades_total",
        downstream_cx_upgrades_active = "downstream_cx_upgrades_active",
        downstream_cx_protocol_error = "downstream_cx_protocol_error",
        downstream_cx_idle_timeout = "downstream_cx_idle_timeout",
        downstream_cx_max_duration_reached = "downstream_cx_max_duration_reached",
        downstream_cx_drain_close = "downstream_cx_drain_close",
        downstream_cx_destroy_remote_active_rq = "downstream_cx_destroy_remote_active_rq",
        downstream_cx_rx_bytes_total = "downstream_cx_rx_bytes_total",
        downstream_cx_tx_bytes_total = "downstream_cx_tx_bytes_total",
        downstream_rq_total = "downstream_rq_total",
        downstream_rq_active = "downstream_rq_active",
        downstream_rq_http1_total = "downstream_rq_http1_total",
        downstream_rq_http2_total = "downstream_rq_http2_total",
        downstream_rq_completed = "downstream_rq_completed",
        downstream_rq_1xx = "downstream_rq_1xx",
        downstream_rq_2xx = "downstream_rq_2xx",
        downstream_rq_3xx = "downstream_rq_3xx",
        downstream_rq_4xx = "downstream_rq_4xx",
        downstream_rq_5xx = "downstream_rq_5xx",
        downstream_rq_rx_reset = "downstream_rq_rx_reset",
        downstream_rq_tx_reset = "downstream_rq_tx_reset",
        downstream_rq_timeout = "downstream_rq_timeout",
        downstream_rq_header_timeout = "downstream_rq_header_timeout",
        downstream_rq_idle_timeout = "downstream_rq_idle_timeout",
        downstream_rq_max_duration_reached = "downstream_rq_max_duration_reached",
        downstream_rq_too_large = "downstream_rq_too_large",
        downstream_rq_non_relative_path = "downstream_rq_non_relative_path",
        downstream_rq_failed_path_normalization = "downstream_rq_failed_path_normalization",
        downstream_rq_redirected_with_normalized_path = "downstream_rq_redirected_with_normalized_path",
        downstream_rq_ws_on_non_ws_route = "downstream_rq_ws_on_non_ws_route",
        downstream_rq_response_before_rq_complete = "downstream_rq_response_before_rq_complete",
        no_route = "no_route",
        no_cluster = "no_cluster",
        rq_direct_response = "rq_direct_response",
        rq_redirect = "rq_redirect",
        rq_reset_after_downstream_response_started = "rq_reset_after_downstream_response_started",
        rq_total = "rq_total",
        fault_delays_injected = "fault.delays_injected",
        fault_aborts_injected = "fault.aborts_injected",
        fault_faults_overflow = "fault.faults_overflow",
        fault_active_faults = "fault.active_faults",
        cors_origin_valid = "cors.origin_valid",
        cors_origin_invalid = "cors.origin_invalid",
        tracing_random_sampling = "tracing.random_sampling",
        tracing_service_forced = "tracing.service_forced",
        tracing_client_enabled = "tracing.client_enabled",
        tracing_not_traceable = "tracing.not_traceable",
        tracing_health_check = "tracing.health_check",
    }
}

counters! {
    /// `tracing.opentelemetry.*`.
    OtelStats {
        spans_sent = "spans_sent",
        spans_dropped = "spans_dropped",
        timer_flushed = "timer_flushed",
    }
}

counters! {
    /// `tracing.zipkin.*`.
    ZipkinStats {
        spans_sent = "spans_sent",
        spans_dropped = "spans_dropped",
        timer_flushed = "timer_flushed",
        reports_sent = "reports_sent",
        reports_skipped_no_cluster = "reports_skipped_no_cluster",
        reports_dropped = "reports_dropped",
        reports_failed = "reports_failed",
    }
}

counters! {
    /// `access_logs.grpc_access_log.*`.
    GrpcLogStats {
        logs_written = "logs_written",
        logs_dropped = "logs_dropped",
    }
}

counters! {
    /// `tcp.<stat_prefix>.*`.
    TcpStats {
        downstream_cx_total = "downstream_cx_total",
        downstream_cx_no_route = "downstream_cx_no_route",
        downstream_cx_rx_bytes_total = "downstream_cx_rx_bytes_total",
        downstream_cx_tx_bytes_total = "downstream_cx_tx_bytes_total",
        idle_timeout = "idle_timeout",
        max_downstream_connection_duration = "max_downstream_connection_duration",
        upstream_flush_total = "upstream_flush_total",
    }
}

counters! {
    /// `listener.<address>.*`.
    ListenerStats {
        downstream_cx_total = "downstream_cx_total",
        downstream_cx_active = "downstream_cx_active",
        downstream_cx_destroy = "downstream_cx_destroy",
        downstream_cx_overflow = "downstream_cx_overflow",
        downstream_pre_cx_timeout = "downstream_pre_cx_timeout",
        downstream_cx_transport_socket_connect_timeout = "downstream_cx_transport_socket_connect_timeout",
        no_filter_chain_match = "no_filter_chain_match",
        ssl_handshake = "ssl.handshake",
        ssl_connection_error = "ssl.connection_error",
        ssl_fail_verify_error = "ssl.fail_verify_error",
        ssl_fail_verify_no_cert = "ssl.fail_verify_no_cert",
    }
}

counters! {
    /// `<prefix>rbac.*` of a filter, network or HTTP.
    RbacStats {
        allowed = "allowed",
        denied = "denied",
        shadow_allowed = "shadow_allowed",
        shadow_denied = "shadow_denied",
    }
}

/// All counters of one process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clusters: Mutex<Shards<ClusterStats>>,
    http: Mutex<Shards<HttpStats>>,
    tcp: Mutex<Shards<TcpStats>>,
    listeners: Mutex<Shards<ListenerStats>>,
    rbac: Mutex<Shards<RbacStats>>,
    otel: Mutex<Shards<OtelStats>>,
    zipkin: Mutex<Shards<ZipkinStats>>,
    grpc_logs: Mutex<Shards<GrpcLogStats>>,
}

/// Each name's counters, one for each worker.
type Shards<T> = HashMap<Arc<str>, Vec<Option<Arc<T>>>>;

/// The counters of one worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerStats {
    worker: usize,
    registry: Registry,
}

impl Registry {
    /// The counters of worker number `worker` (from 0).
    pub fn worker(&self, worker: usize) -> WorkerStats {
        WorkerStats {
            worker,
            registry: self.clone(),
        }
    }

    /// Every counter and gauge by full Envoy name, summed over workers.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        sum("cluster.", &self.inner.clusters, &mut out);
        sum("http.", &self.inner.http, &mut out);
        sum("tcp.", &self.inner.tcp, &mut out);
        sum("listener.", &self.inner.listeners, &mut out);
        sum("", &self.inner.rbac, &mut out);
        sum("tracing.", &self.inner.otel, &mut out);
        sum("tracing.", &self.inner.zipkin, &mut out);
        sum("access_logs.", &self.inner.grpc_logs, &mut out);
        out
    }

    /// Forgets the counters of clusters that are gone, in all workers.
    pub fn retain_clusters(&self, mut keep: impl FnMut(&str) -> bool) {
        lock(&self.inner.clusters).retain(|name, _| keep(name));
    }
}

impl WorkerStats {
    /// Counters of a cluster by its stat name.
    pub fn cluster(&self, name: &str) -> Arc<ClusterStats> {
        get(&self.registry.inner.clusters, self.worker, name)
    }

    /// Counters of an HTTP connection manager by its stat prefix.
    pub fn http(&self, prefix: &str) -> Arc<HttpStats> {
        get(&self.registry.inner.http, self.worker, prefix)
    }

    /// Counters of a TCP proxy by its stat prefix.
    pub fn tcp(&self, prefix: &str) -> Arc<TcpStats> {
        get(&self.registry.inner.tcp, self.worker, prefix)
    }

    /// Counters of a listener by its stat prefix or address.
    pub fn listener(&self, name: &str) -> Arc<ListenerStats> {
        get(&self.registry.inner.listeners, self.worker, name)
    }

    /// Counters of an RBAC filter by all that stands before their names, `http.inbound.rbac` for one.
    pub fn rbac(&self, prefix: &str) -> Arc<RbacStats> {
        get(&self.registry.inner.rbac, self.worker, prefix)
    }

    /// Counters of spans sent by OTLP.
    pub fn otel(&self) -> Arc<OtelStats> {
        get(&self.registry.inner.otel, self.worker, "opentelemetry")
    }

    /// Counters of spans sent to Zipkin.
    pub fn zipkin(&self) -> Arc<ZipkinStats> {
        get(&self.registry.inner.zipkin, self.worker, "zipkin")
    }

    /// Counters of entries sent to access log services.
    pub fn grpc_log(&self) -> Arc<GrpcLogStats> {
        get(
            &self.registry.inner.grpc_logs,
            self.worker,
            "grpc_access_log",
        )
    }
}

fn get<T: Counters>(shards: &Mutex<Shards<T>>, worker: usize, name: &str) -> Arc<T> {
    let mut shards = lock(shards);
    let slots = match shards.get_mut(name) {
        Some(slots) => slots,
        None => shards.entry(Arc::from(name)).or_default(),
    };
    if slots.len() <= worker {
        slots.resize(worker + 1, None);
    }
    match slots.get_mut(worker) {
        Some(slot) => Arc::clone(slot.get_or_insert_default()),
        None => Arc::default(),
    }
}

fn sum<T: Counters>(prefix: &str, shards: &Mutex<Shards<T>>, out: &mut BTreeMap<String, u64>) {
    for (name, slots) in &*lock(shards) {
        let dot = if name.is_empty() { "" } else { "." };
        for stats in slots.iter().flatten() {
            stats.walk(&mut |counter, value| {
                let total = out
                    .entry(format!("{prefix}{name}{dot}{counter}"))
                    .or_insert(0);
                *total = total.wrapping_add(value);
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while holding it leaves counters as they were: still usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Registry;

    #[test]
    fn workers_are_summed_under_envoys_names() {
        let registry = Registry::default();
        registry.worker(0).cluster("web").upstream_rq_total.add(2);
        registry.worker(1).cluster("web").upstream_rq_total.inc();
        registry.worker(1).http("in").downstream_rq_total.inc();
        let totals = registry.totals();
        assert_eq!(totals["cluster.web.upstream_rq_total"], 3);
        assert_eq!(totals["http.in.downstream_rq_total"], 1);
    }
}
