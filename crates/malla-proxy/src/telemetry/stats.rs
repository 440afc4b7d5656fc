//! Counters and gauges with Envoy's names: one writer each, summed over workers on scrape.
//!
//! A worker gets its own [`ClusterStats`] and [`HttpStats`] from the shared [`Registry`]; getting one takes a lock and
//! happens when configuration arrives, not when requests do. Counting is a load and a store of an own cache line's
//! atomic: no locked instruction.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::codes::{Answers, Codes, GrpcStatuses};
use super::histogram::{Histogram, Summary};

/// A number with a single writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

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
    ($(#[$doc:meta])* $name:ident $(with $more:ident: $kind:ty)? {
        $($field:ident = $text:literal),+ $(,)?
        $(; $($histogram:ident = $histogram_text:literal),+ $(,)?)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(#[doc = concat!("Envoy's `", $text, "`.")] pub $field: Count,)+
            $(#[doc = "Those whose names are not known before."] pub $more: $kind,)?
            $($(#[doc = concat!("Envoy's `", $histogram_text, "`.")] pub $histogram: Histogram,)+)?
        }

        impl Counters for $name {
            fn walk(&self, visit: &mut dyn FnMut(&str, u64)) {
                $( visit($text, self.$field.get()); )+
                $( self.$more.walk(visit); )?
            }

            $(fn histograms(&self, visit: &mut dyn FnMut(&'static str, &Histogram)) {
                $( visit($histogram_text, &self.$histogram); )+
            })?
        }
    };
}

/// A set of counters that can list itself.
pub trait Counters: Default + Send + Sync + 'static {
    /// Visits each name and value.
    fn walk(&self, visit: &mut dyn FnMut(&str, u64));

    /// Visits each distribution.
    fn histograms(&self, visit: &mut dyn FnMut(&'static str, &Histogram)) {
        let _ = visit;
    }
}

counters! {
    /// `cluster.<name>.*`.
    ClusterStats with codes: Codes {
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
        original_dst_host_invalid = "original_dst_host_invalid",
        upstream_cx_protocol_error = "upstream_cx_protocol_error",
        upstream_cx_rx_bytes_total = "upstream_cx_rx_bytes_total",
        upstream_cx_tx_bytes_total = "upstream_cx_tx_bytes_total",
        upstream_rq_total = "upstream_rq_total",
        upstream_rq_active = "upstream_rq_active",
        upstream_rq_pending_total = "upstream_rq_pending_total",
        upstream_rq_pending_active = "upstream_rq_pending_active",
        upstream_rq_pending_overflow = "upstream_rq_pending_overflow",
        upstream_rq_pending_failure_eject = "upstream_rq_pending_failure_eject",
        upstream_rq_cancelled = "upstream_rq_cancelled",
        upstream_rq_maintenance_mode = "upstream_rq_maintenance_mode",
        upstream_rq_timeout = "upstream_rq_timeout",
        upstream_rq_per_try_timeout = "upstream_rq_per_try_timeout",
        upstream_rq_per_try_idle_timeout = "upstream_rq_per_try_idle_timeout",
        upstream_rq_retry_backoff_exponential = "upstream_rq_retry_backoff_exponential",
        upstream_rq_retry_backoff_ratelimited = "upstream_rq_retry_backoff_ratelimited",
        upstream_internal_redirect_succeeded_total = "upstream_internal_redirect_succeeded_total",
        upstream_internal_redirect_failed_total = "upstream_internal_redirect_failed_total",
        upstream_rq_max_duration_reached = "upstream_rq_max_duration_reached",
        upstream_rq_rx_reset = "upstream_rq_rx_reset",
        upstream_rq_tx_reset = "upstream_rq_tx_reset",
        upstream_rq_retry = "upstream_rq_retry",
        upstream_rq_retry_success = "upstream_rq_retry_success",
        upstream_rq_retry_overflow = "upstream_rq_retry_overflow",
        upstream_rq_retry_limit_exceeded = "upstream_rq_retry_limit_exceeded",
        bind_errors = "bind_errors",
        membership_change = "membership_change",
        membership_healthy = "membership_healthy",
        membership_total = "membership_total",
        lb_healthy_panic = "lb_healthy_panic",
        lb_subsets_selected = "lb_subsets_selected",
        lb_subsets_fallback = "lb_subsets_fallback",
        lb_subsets_fallback_panic = "lb_subsets_fallback_panic",
        lb_zone_routing_all_directly = "lb_zone_routing_all_directly",
        lb_zone_routing_sampled = "lb_zone_routing_sampled",
        lb_zone_routing_cross_zone = "lb_zone_routing_cross_zone",
        lb_zone_no_capacity_left = "lb_zone_no_capacity_left",
        lb_zone_cluster_too_small = "lb_zone_cluster_too_small",
        lb_local_cluster_not_ok = "lb_local_cluster_not_ok",
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
        ssl_fail_verify_error = "ssl.fail_verify_error";
        upstream_rq_time = "upstream_rq_time",
        upstream_cx_connect_ms = "upstream_cx_connect_ms",
        upstream_cx_length_ms = "upstream_cx_length_ms",
    }
}

counters! {
    /// `vhost.<name>.vcluster.<name>.*`.
    VirtualClusterStats with answers: Answers {
        upstream_rq_retry = "upstream_rq_retry",
        upstream_rq_retry_limit_exceeded = "upstream_rq_retry_limit_exceeded",
        upstream_rq_retry_overflow = "upstream_rq_retry_overflow",
        upstream_rq_retry_success = "upstream_rq_retry_success",
        upstream_rq_timeout = "upstream_rq_timeout",
        upstream_rq_total = "upstream_rq_total",
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
        downstream_rq_overload_close = "downstream_rq_overload_close",
        downstream_cx_overload_disable_keepalive = "downstream_cx_overload_disable_keepalive",
        downstream_rq_too_many_premature_resets = "downstream_rq_too_many_premature_resets",
        no_route = "no_route",
        no_cluster = "no_cluster",
        passthrough_internal_redirect_bad_location = "passthrough_internal_redirect_bad_location",
        passthrough_internal_redirect_unsafe_scheme = "passthrough_internal_redirect_unsafe_scheme",
        passthrough_internal_redirect_too_many_redirects = "passthrough_internal_redirect_too_many_redirects",
        passthrough_internal_redirect_no_route = "passthrough_internal_redirect_no_route",
        passthrough_internal_redirect_predicate = "passthrough_internal_redirect_predicate",
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
        tracing_health_check = "tracing.health_check";
        downstream_rq_time = "downstream_rq_time",
        downstream_cx_length_ms = "downstream_cx_length_ms",
    }
}

counters! {
    /// `http2.*` of all listeners, `cluster.<name>.http2.*`.
    Http2Stats {
        inbound_empty_frames_flood = "inbound_empty_frames_flood",
        inbound_priority_frames_flood = "inbound_priority_frames_flood",
        inbound_window_update_frames_flood = "inbound_window_update_frames_flood",
        outbound_control_flood = "outbound_control_flood",
        outbound_flood = "outbound_flood",
        keepalive_timeout = "keepalive_timeout",
        rx_reset = "rx_reset",
        tx_reset = "tx_reset",
        goaway_sent = "goaway_sent",
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
    /// `cluster.<name>.grpc.*`, and `cluster.<name>.grpc.<service>.<method>.*`.
    GrpcCallStats with statuses: GrpcStatuses {
        total = "total",
        success = "success",
        failure = "failure",
        request_message_count = "request_message_count",
        response_message_count = "response_message_count";
        upstream_rq_time = "upstream_rq_time",
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
        downstream_cx_overload_reject = "downstream_cx_overload_reject",
        downstream_pre_cx_timeout = "downstream_pre_cx_timeout",
        downstream_cx_transport_socket_connect_timeout = "downstream_cx_transport_socket_connect_timeout",
        no_filter_chain_match = "no_filter_chain_match",
        ssl_handshake = "ssl.handshake",
        ssl_connection_error = "ssl.connection_error",
        ssl_fail_verify_error = "ssl.fail_verify_error",
        ssl_fail_verify_no_cert = "ssl.fail_verify_no_cert";
        downstream_cx_length_ms = "downstream_cx_length_ms",
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

counters! {
    /// `connection_limit.<stat_prefix>.*`.
    ConnectionLimitStats {
        limited_connections = "limited_connections",
        active_connections = "active_connections",
    }
}

counters! {
    /// `local_rate_limit.<stat_prefix>.*` of a network filter.
    ConnectionRateStats {
        rate_limited = "rate_limited",
    }
}

counters! {
    /// `http.<stat_prefix>.jwt_authn.*`.
    JwtStats {
        allowed = "allowed",
        denied = "denied",
        cors_preflight_bypassed = "cors_preflight_bypassed",
        jwks_fetch_success = "jwks_fetch_success",
        jwks_fetch_failed = "jwks_fetch_failed",
        jwt_cache_hit = "jwt_cache_hit",
        jwt_cache_miss = "jwt_cache_miss",
    }
}

counters! {
    /// `http.<stat_prefix>.ext_authz.*` and `cluster.<name>.ext_authz.*`.
    ExtAuthzStats {
        ok = "ok",
        denied = "denied",
        error = "error",
        disabled = "disabled",
        failure_mode_allowed = "failure_mode_allowed",
        invalid = "invalid",
        ignored_dynamic_metadata = "ignored_dynamic_metadata",
    }
}

counters! {
    /// `<stat_prefix>.http_local_rate_limit.*`.
    LocalLimitStats {
        enabled = "enabled",
        enforced = "enforced",
        rate_limited = "rate_limited",
        ok = "ok",
    }
}

counters! {
    /// `ext_authz.<stat_prefix>.*` of a network filter.
    NetworkAuthzStats {
        total = "total",
        error = "error",
        denied = "denied",
        failure_mode_allowed = "failure_mode_allowed",
        ok = "ok",
        cx_closed = "cx_closed",
        active = "active",
    }
}

counters! {
    /// `cluster.<name>.ratelimit.*`.
    RateLimitStats {
        ok = "ok",
        error = "error",
        over_limit = "over_limit",
        failure_mode_allowed = "failure_mode_allowed",
    }
}

counters! {
    /// `ratelimit.<stat_prefix>.*` of a network filter.
    NetworkLimitStats {
        total = "total",
        error = "error",
        over_limit = "over_limit",
        ok = "ok",
        cx_closed = "cx_closed",
        failure_mode_allowed = "failure_mode_allowed",
        active = "active",
    }
}

/// Counters of one worker that were looked up before, by name or by names.
#[derive(Debug)]
pub struct Known<T, K = Arc<str>>(RefCell<HashMap<K, Arc<T>>>);

impl<T, K> Default for Known<T, K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Known<T> {
    /// True if there is such a name, or room for one more beside `most`.
    pub fn may_have(&self, name: &str, most: usize) -> bool {
        let known = self.0.borrow();
        known.len() < most || known.contains_key(name)
    }
}

impl<T, K: Clone + Eq + Hash> Known<T, K> {
    /// Those of this name; `make` looks them up the first time.
    pub fn get(&self, name: &K, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut known = self.0.borrow_mut();
        if let Some(stats) = known.get(name) {
            return Arc::clone(stats);
        }
        Arc::clone(known.entry(name.clone()).or_insert_with(make))
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
    virtual_clusters: Mutex<Shards<VirtualClusterStats>>,
    http: Mutex<Shards<HttpStats>>,
    tcp: Mutex<Shards<TcpStats>>,
    listeners: Mutex<Shards<ListenerStats>>,
    rbac: Mutex<Shards<RbacStats>>,
    connection_limits: Mutex<Shards<ConnectionLimitStats>>,
    connection_rates: Mutex<Shards<ConnectionRateStats>>,
    jwt: Mutex<Shards<JwtStats>>,
    ext_authz: Mutex<Shards<ExtAuthzStats>>,
    network_authz: Mutex<Shards<NetworkAuthzStats>>,
    local_limits: Mutex<Shards<LocalLimitStats>>,
    rate_limits: Mutex<Shards<RateLimitStats>>,
    network_limits: Mutex<Shards<NetworkLimitStats>>,
    otel: Mutex<Shards<OtelStats>>,
    http2: Mutex<Shards<Http2Stats>>,
    /// Numbers of the process, by full name.
    own: Mutex<BTreeMap<String, u64>>,
    zipkin: Mutex<Shards<ZipkinStats>>,
    grpc_logs: Mutex<Shards<GrpcLogStats>>,
    grpc_calls: Mutex<Shards<GrpcCallStats>>,
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
        sum("vhost.", &self.inner.virtual_clusters, &mut out);
        sum("http.", &self.inner.http, &mut out);
        sum("tcp.", &self.inner.tcp, &mut out);
        sum("listener.", &self.inner.listeners, &mut out);
        by_worker(&self.inner.listeners, &mut out);
        sum("", &self.inner.rbac, &mut out);
        sum("connection_limit.", &self.inner.connection_limits, &mut out);
        sum("local_rate_limit.", &self.inner.connection_rates, &mut out);
        sum("", &self.inner.jwt, &mut out);
        sum("", &self.inner.ext_authz, &mut out);
        sum("ext_authz.", &self.inner.network_authz, &mut out);
        sum("", &self.inner.local_limits, &mut out);
        sum("cluster.", &self.inner.rate_limits, &mut out);
        sum("ratelimit.", &self.inner.network_limits, &mut out);
        sum("", &self.inner.http2, &mut out);
        sum("tracing.", &self.inner.otel, &mut out);
        sum("tracing.", &self.inner.zipkin, &mut out);
        sum("access_logs.", &self.inner.grpc_logs, &mut out);
        sum("cluster.", &self.inner.grpc_calls, &mut out);
        let own = lock(&self.inner.own);
        out.extend(own.iter().map(|(name, value)| (name.clone(), *value)));
        out
    }

    /// Every distribution by full Envoy name, over all workers.
    pub fn histograms(&self) -> BTreeMap<String, Summary> {
        let mut out = BTreeMap::new();
        merge("cluster.", &self.inner.clusters, &mut out);
        merge("http.", &self.inner.http, &mut out);
        merge("listener.", &self.inner.listeners, &mut out);
        let mut calls = BTreeMap::new();
        merge("cluster.", &self.inner.grpc_calls, &mut calls);
        // Only some filters keep them.
        out.extend(calls.into_iter().filter(|(_, summary)| !summary.is_empty()));
        out
    }

    /// Sets a gauge that is nobody's but the process'.
    pub fn set(&self, name: String, value: u64) {
        lock(&self.inner.own).insert(name, value);
    }

    /// Adds to such a counter.
    pub fn add(&self, name: String, count: u64) {
        *lock(&self.inner.own).entry(name).or_default() += count;
    }

    /// Forgets the counters of clusters that are gone, in all workers.
    pub fn retain_clusters(&self, mut keep: impl FnMut(&str) -> bool) {
        lock(&self.inner.grpc_calls).retain(|name, _| {
            // Names of services may hold the word, too.
            let mut ends = name.match_indices(".grpc");
            ends.any(|(end, _)| name.get(..end).is_some_and(&mut keep))
        });
        lock(&self.inner.clusters).retain(|name, _| keep(name));
        lock(&self.inner.http2).retain(|name, _| {
            let cluster = name.strip_prefix("cluster.");
            let cluster = cluster.and_then(|name| name.strip_suffix(".http2"));
            cluster.is_none_or(&mut keep)
        });
    }
}

impl WorkerStats {
    /// Counters of a cluster by its stat name.
    pub fn cluster(&self, name: &str) -> Arc<ClusterStats> {
        get(&self.registry.inner.clusters, self.worker, name)
    }

    /// Counters of the requests of a virtual host that are counted under a name.
    pub fn virtual_cluster(&self, host: &str, name: &str) -> Arc<VirtualClusterStats> {
        let name = format!("{host}.vcluster.{name}");
        get(&self.registry.inner.virtual_clusters, self.worker, &name)
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

    /// Counters of a limit on connections by its stat prefix.
    pub fn connection_limit(&self, prefix: &str) -> Arc<ConnectionLimitStats> {
        get(&self.registry.inner.connection_limits, self.worker, prefix)
    }

    /// Counters of a limit on new connections by its stat prefix.
    pub fn connection_rate(&self, prefix: &str) -> Arc<ConnectionRateStats> {
        get(&self.registry.inner.connection_rates, self.worker, prefix)
    }

    /// Counters of a filter that asks for tokens, likewise.
    pub fn jwt(&self, prefix: &str) -> Arc<JwtStats> {
        get(&self.registry.inner.jwt, self.worker, prefix)
    }

    /// Counters of a filter that asks another service, likewise.
    pub fn ext_authz(&self, prefix: &str) -> Arc<ExtAuthzStats> {
        get(&self.registry.inner.ext_authz, self.worker, prefix)
    }

    /// Counters of a filter that asks another service about connections, by its stat prefix.
    pub fn network_authz(&self, prefix: &str) -> Arc<NetworkAuthzStats> {
        get(&self.registry.inner.network_authz, self.worker, prefix)
    }

    /// Counters of a local rate limit by its stat prefix.
    pub fn local_limit(&self, prefix: &str) -> Arc<LocalLimitStats> {
        let name = format!("{prefix}.http_local_rate_limit");
        get(&self.registry.inner.local_limits, self.worker, &name)
    }

    /// Counters of a rate limit by the cluster's name and what follows it, `web.ratelimit` for one.
    pub fn rate_limit(&self, name: &str) -> Arc<RateLimitStats> {
        get(&self.registry.inner.rate_limits, self.worker, name)
    }

    /// Counters of a rate limit of connections by its stat prefix.
    pub fn network_limit(&self, prefix: &str) -> Arc<NetworkLimitStats> {
        get(&self.registry.inner.network_limits, self.worker, prefix)
    }

    /// Counters of HTTP/2 connections of clients, or of those to `cluster`.
    pub fn http2(&self, cluster: Option<&str>) -> Arc<Http2Stats> {
        let own;
        let name = match cluster {
            None => "http2",
            Some(cluster) => {
                own = format!("cluster.{cluster}.http2");
                &own
            }
        };
        get(&self.registry.inner.http2, self.worker, name)
    }

    /// Counters of spans sent by OTLP.
    pub fn otel(&self) -> Arc<OtelStats> {
        get(&self.registry.inner.otel, self.worker, "opentelemetry")
    }

    /// Counters of spans sent to Zipkin.
    pub fn zipkin(&self) -> Arc<ZipkinStats> {
        get(&self.registry.inner.zipkin, self.worker, "zipkin")
    }

    /// Counters of gRPC calls by what stands before their names, `web.grpc` for one.
    pub fn grpc_call(&self, name: &str) -> Arc<GrpcCallStats> {
        get(&self.registry.inner.grpc_calls, self.worker, name)
    }

    /// Counters of entries sent to access log services.
    pub fn grpc_log(&self) -> Arc<GrpcLogStats> {
        get(
            &self.registry.inner.grpc_logs,
            self.worker,
            "grpc_access_log",
        )
    }

    /// Counters of log records sent to OpenTelemetry collectors.
    pub fn otlp_log(&self, prefix: &str) -> Arc<GrpcLogStats> {
        let name = match prefix {
            "" => "open_telemetry_access_log".to_owned(),
            prefix => format!("open_telemetry_access_log.{prefix}"),
        };
        get(&self.registry.inner.grpc_logs, self.worker, &name)
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

/// How connections are spread over workers, `listener.<address>.worker_<n>.*`.
fn by_worker(shards: &Mutex<Shards<ListenerStats>>, out: &mut BTreeMap<String, u64>) {
    for (name, slots) in &*lock(shards) {
        for (worker, stats) in slots.iter().enumerate() {
            let Some(stats) = stats else { continue };
            let mut put = |counter: &str, value: u64| {
                out.insert(format!("listener.{name}.worker_{worker}.{counter}"), value);
            };
            put("downstream_cx_total", stats.downstream_cx_total.get());
            put("downstream_cx_active", stats.downstream_cx_active.get());
        }
    }
}

fn merge<T: Counters>(
    prefix: &str,
    shards: &Mutex<Shards<T>>,
    out: &mut BTreeMap<String, Summary>,
) {
    for (name, slots) in &*lock(shards) {
        for stats in slots.iter().flatten() {
            stats.histograms(&mut |histogram, part| {
                let name = format!("{prefix}{name}.{histogram}");
                out.entry(name).or_default().add(part);
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
