//! The blocks of a traffic policy.
//!
//! Istio reads most limits as "positive or unset": a zero is no limit, not a limit of zero.

use malla_model::traffic::{
    Balance, ClientTls, ClientTlsMode, ConnectionPool, H2Upgrade, HashKey, HashTable, Keepalive,
    LoadBalancer, LocalityBalancing, OutlierDetection, PortPolicy, RetryBudget, TrafficPolicy,
    Warmup,
};

use super::Context;
use super::meta::{port, text, texts};
use crate::istio::traffic_policy as raw;

pub(super) fn lower(
    written: Option<&raw::TrafficPolicy>,
    path: &str,
    cx: &mut Context<'_>,
) -> TrafficPolicy {
    let Some(written) = written else {
        return TrafficPolicy::default();
    };
    TrafficPolicy {
        load_balancer: written
            .load_balancer
            .as_ref()
            .map(|lb| load_balancer(lb, path, cx)),
        connection_pool: written.connection_pool.as_ref().map(connection_pool),
        outlier: written.outlier_detection.as_ref().map(outlier),
        tls: written.tls.as_ref().map(client_tls),
        ports: ports(&written.port_level_settings, path, cx),
        retry_budget: written.retry_budget.as_ref().map(retry_budget),
    }
}

fn ports(list: &[raw::PortTrafficPolicy], path: &str, cx: &mut Context<'_>) -> Vec<PortPolicy> {
    let mut lowered = Vec::new();
    for (at, item) in list.iter().enumerate() {
        let at = format!("{path}.portLevelSettings[{at}]");
        let number = item.port.as_ref().and_then(|p| p.number).and_then(port);
        let Some(number) = number else {
            cx.note(
                format!("{at}.port.number"),
                "not a port (1-65535), so these settings apply nowhere",
            );
            continue;
        };
        lowered.push(PortPolicy {
            port: number,
            load_balancer: item
                .load_balancer
                .as_ref()
                .map(|lb| load_balancer(lb, &at, cx)),
            connection_pool: item.connection_pool.as_ref().map(connection_pool),
            outlier: item.outlier_detection.as_ref().map(outlier),
            tls: item.tls.as_ref().map(client_tls),
        });
    }
    lowered
}

fn load_balancer(
    written: &raw::LoadBalancerSettings,
    path: &str,
    cx: &mut Context<'_>,
) -> LoadBalancer {
    let algorithm = match (&written.consistent_hash, written.simple) {
        (Some(hash), _) => consistent_hash(hash).unwrap_or_else(|| {
            cx.note(
                format!("{path}.loadBalancer.consistentHash"),
                "names nothing to hash (httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName), so it is ignored",
            );
            Balance::default()
        }),
        (None, Some(raw::SimpleLb::Random)) => Balance::Random,
        (None, Some(raw::SimpleLb::RoundRobin)) => Balance::RoundRobin,
        (None, Some(raw::SimpleLb::Passthrough)) => Balance::Passthrough,
        (
            None,
            None | Some(raw::SimpleLb::Unspecified | raw::SimpleLb::LeastConn | raw::SimpleLb::LeastRequest),
        ) => Balance::LeastRequest,
    };
    LoadBalancer {
        algorithm,
        locality: written.locality_lb_setting.as_ref().map(locality),
        warmup: warmup(written),
    }
}

fn consistent_hash(written: &raw::ConsistentHashLb) -> Option<Balance> {
    let cookie = |cookie: &raw::HttpCookie| HashKey::Cookie {
        name: cookie.name.as_str().into(),
        path: text(&cookie.path).unwrap_or_default(),
        ttl: cookie.ttl.map(|ttl| ttl.0),
    };
    let header = text(&written.http_header_name)
        .map(|name| HashKey::Header(name.to_ascii_lowercase().into()));
    let key = header
        .or_else(|| written.http_cookie.as_ref().map(cookie))
        .or_else(|| {
            written
                .use_source_ip
                .unwrap_or(false)
                .then_some(HashKey::SourceIp)
        })
        .or_else(|| text(&written.http_query_parameter_name).map(HashKey::QueryParameter))?;
    let table = match (&written.maglev, &written.ring_hash) {
        (Some(maglev), _) => HashTable::Maglev {
            size: maglev
                .table_size
                .filter(|size| *size != 0)
                .unwrap_or(DEFAULT_MAGLEV_SIZE),
        },
        (None, ring) => HashTable::Ring {
            minimum_size: ring
                .as_ref()
                .and_then(|ring| ring.minimum_ring_size)
                .or(written.minimum_ring_size)
                .filter(|size| *size != 0)
                .unwrap_or(DEFAULT_RING_SIZE),
        },
    };
    Some(Balance::Hash { key, table })
}

/// Istio's defaults of ConsistentHashLB.
const DEFAULT_RING_SIZE: u64 = 1024;
const DEFAULT_MAGLEV_SIZE: u64 = 65_537;

pub(super) fn locality(written: &raw::LocalityLbSetting) -> LocalityBalancing {
    let name = |value: &Option<String>| text(value).unwrap_or_default();
    LocalityBalancing {
        enabled: written.enabled,
        distribute: written
            .distribute
            .iter()
            .map(|rule| {
                let to = rule
                    .to
                    .iter()
                    .map(|(to, share)| (to.as_str().into(), *share));
                (name(&rule.from), to.collect())
            })
            .collect(),
        failover: written
            .failover
            .iter()
            .map(|rule| (name(&rule.from), name(&rule.to)))
            .collect(),
        failover_priority: texts(&written.failover_priority),
    }
}

fn warmup(written: &raw::LoadBalancerSettings) -> Option<Warmup> {
    let new = written.warmup.as_ref();
    let duration = new
        .and_then(|w| w.duration)
        .or(written.warmup_duration_secs)?
        .0;
    Some(Warmup {
        duration,
        minimum_percent: new
            .and_then(|w| w.minimum_percent)
            .map_or(10, |p| whole(p, 100)),
        aggression: new
            .and_then(|w| w.aggression)
            .map_or(1000, |a| whole(a * 1000.0, u32::MAX)),
    })
}

/// A non-negative number to the nearest whole one, at most `most`; no number is zero.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to 0..=most first
fn whole(number: f64, most: u32) -> u32 {
    number.round().clamp(0.0, f64::from(most)) as u32
}

fn positive(number: Option<i32>) -> Option<u32> {
    number
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0)
}

pub(super) fn keepalive(written: &raw::TcpKeepalive) -> Keepalive {
    Keepalive {
        probes: written.probes.filter(|n| *n > 0),
        time: written.time.map(|d| d.0),
        interval: written.interval.map(|d| d.0),
    }
}

pub(super) fn connection_pool(written: &raw::ConnectionPoolSettings) -> ConnectionPool {
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = &written.tcp {
        pool.max_connections = positive(tcp.max_connections);
        pool.connect_timeout = tcp.connect_timeout.map(|d| d.0);
        pool.tcp_keepalive = tcp.tcp_keepalive.as_ref().map(keepalive);
        pool.max_connection_duration = tcp.max_connection_duration.map(|d| d.0);
        pool.tcp_idle_timeout = tcp.idle_timeout.map(|d| d.0);
    }
    if let Some(http) = &written.http {
        pool.http1_max_pending_requests = positive(http.http1_max_pending_requests);
        pool.http2_max_requests = positive(http.http2_max_requests);
        pool.max_requests_per_connection = positive(http.max_requests_per_connection);
        pool.max_retries = positive(http.max_retries);
        pool.http_idle_timeout = http.idle_timeout.map(|d| d.0);
        pool.h2_upgrade = match http.h2_upgrade_policy {
            None | Some(raw::H2UpgradePolicy::Default) => H2Upgrade::Default,
            Some(raw::H2UpgradePolicy::DoNotUpgrade) => H2Upgrade::DoNotUpgrade,
            Some(raw::H2UpgradePolicy::Upgrade) => H2Upgrade::Upgrade,
        };
        pool.use_client_protocol = http.use_client_protocol;
        pool.max_concurrent_streams = positive(http.max_concurrent_streams);
    }
    pool
}

fn outlier(written: &raw::OutlierDetection) -> OutlierDetection {
    let percent = |number: Option<i32>| {
        number
            .and_then(|n| u32::try_from(n).ok())
            .map(|n| n.min(100))
    };
    OutlierDetection {
        consecutive_5xx: written.consecutive_5xx_errors,
        consecutive_gateway_errors: written
            .consecutive_gateway_errors
            .or_else(|| positive(written.consecutive_errors)),
        consecutive_local_origin_failures: written.consecutive_local_origin_failures,
        split_external_local_origin_errors: written.split_external_local_origin_errors,
        interval: written.interval.map(|d| d.0),
        base_ejection_time: written.base_ejection_time.map(|d| d.0),
        max_ejection_percent: percent(written.max_ejection_percent).filter(|n| *n > 0),
        min_health_percent: percent(written.min_health_percent),
    }
}

fn client_tls(written: &raw::ClientTlsSettings) -> ClientTls {
    ClientTls {
        mode: match written.mode {
            None | Some(raw::ClientTlsMode::Disable) => ClientTlsMode::Disable,
            Some(raw::ClientTlsMode::Simple) => ClientTlsMode::Simple,
            Some(raw::ClientTlsMode::Mutual) => ClientTlsMode::Mutual,
            Some(raw::ClientTlsMode::IstioMutual) => ClientTlsMode::IstioMutual,
        },
        sni: text(&written.sni),
        subject_alt_names: texts(&written.subject_alt_names),
        client_certificate: text(&written.client_certificate),
        private_key: text(&written.private_key),
        ca_certificates: text(&written.ca_certificates),
        credential_name: text(&written.credential_name),
        insecure_skip_verify: written.insecure_skip_verify.unwrap_or(false),
    }
}

fn retry_budget(written: &raw::RetryBudget) -> RetryBudget {
    RetryBudget {
        percent_milli: whole(written.percent.unwrap_or(20.0) * 1000.0, 100_000),
        min_retry_concurrency: written.min_retry_concurrency.unwrap_or(3),
    }
}
