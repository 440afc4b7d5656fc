//! The traffic policy of a DestinationRule, subset or port.

use std::net::IpAddr;

use super::names;
use crate::analyze::Code;
use crate::istio::traffic_policy::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, H2UpgradePolicy,
    LoadBalancerSettings, LocalityLbSetting, OutlierDetection, TrafficPolicy, TunnelSettings,
};
use crate::report::Report;

pub(super) fn check(policy: &TrafficPolicy, path: &str, report: &mut Report) {
    if *policy == TrafficPolicy::default() {
        report
            .error(path, "is empty")
            .fix("set at least one field, or remove it");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        report
            .error(path, "only one of tunnel, proxyProtocol may be set")
            .done();
    }
    blocks(
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        path,
        report,
    );
    if let Some(tunnel) = &policy.tunnel {
        self::tunnel(tunnel, &format!("{path}.tunnel"), report);
    }
    for (at, settings) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{at}]");
        match settings.port.as_ref().and_then(|port| port.number) {
            Some(number) => names::port(number, &format!("{path}.port.number"), report),
            None => report
                .error(format!("{path}.port.number"), "is required")
                .done(),
        }
        let empty = settings.load_balancer.is_none()
            && settings.connection_pool.is_none()
            && settings.outlier_detection.is_none()
            && settings.tls.is_none();
        if empty {
            report
                .error(&path, "sets nothing")
                .fix("set at least one block, or remove it");
        }
        blocks(
            settings.load_balancer.as_ref(),
            settings.connection_pool.as_ref(),
            settings.outlier_detection.as_ref(),
            settings.tls.as_ref(),
            &path,
            report,
        );
    }
}

fn blocks(
    load_balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    path: &str,
    report: &mut Report,
) {
    if let Some(settings) = load_balancer {
        self::load_balancer(settings, outlier, &format!("{path}.loadBalancer"), report);
    }
    if let Some(settings) = pool {
        connection_pool(settings, &format!("{path}.connectionPool"), report);
    }
    if let Some(settings) = outlier {
        self::outlier(settings, &format!("{path}.outlierDetection"), report);
    }
    if let Some(settings) = tls {
        self::tls(settings, &format!("{path}.tls"), report);
    }
}

fn load_balancer(
    settings: &LoadBalancerSettings,
    outlier: Option<&OutlierDetection>,
    path: &str,
    report: &mut Report,
) {
    if let Some(hash) = &settings.consistent_hash {
        consistent_hash(hash, &format!("{path}.consistentHash"), report);
    }
    if let Some(locality) = &settings.locality_lb_setting {
        self::locality(
            locality,
            outlier.is_some(),
            &format!("{path}.localityLbSetting"),
            report,
        );
    }
    if settings.warmup_duration_secs.is_some() {
        report
            .warn(format!("{path}.warmupDurationSecs"), "is deprecated")
            .code(Code::Deprecated)
            .fix("use warmup.duration");
    }
}

/// Largest table Envoy takes.
const LARGEST_MAGLEV: u64 = 5_000_011;

fn consistent_hash(hash: &ConsistentHashLb, path: &str, report: &mut Report) {
    if hash.minimum_ring_size.is_some() {
        report
            .warn(format!("{path}.minimumRingSize"), "is deprecated")
            .code(Code::Deprecated)
            .fix("use ringHash.minimumRingSize");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            report
                .error(
                    path,
                    "only one of minimumRingSize, ringHash, maglev may be set",
                )
                .done();
        }
    }
    if let Some(size) = hash.maglev.as_ref().and_then(|maglev| maglev.table_size)
        && (size >= LARGEST_MAGLEV || !is_prime(size))
    {
        report
            .error(
                format!("{path}.maglev.tableSize"),
                format!("must be a prime below {LARGEST_MAGLEV}"),
            )
            .value(size)
            .fix("use 65537");
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

fn locality(setting: &LocalityLbSetting, ejects: bool, path: &str, report: &mut Report) {
    let modes = [!setting.distribute.is_empty(), !setting.failover.is_empty()];
    if modes.iter().all(|set| *set) {
        report
            .error(path, "only one of distribute, failover may be set")
            .done();
    }
    for (at, rule) in setting.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{at}]");
        if rule.from.as_deref().unwrap_or_default().is_empty() {
            report.error(format!("{path}.from"), "is required").done();
        }
        let total: u64 = rule.to.values().map(|share| u64::from(*share)).sum();
        if total != 100 {
            report
                .error(format!("{path}.to"), "the shares must sum up to 100")
                .value(total)
                .done();
        }
    }
    for (at, rule) in setting.failover.iter().enumerate() {
        if rule.from == rule.to {
            report
                .error(format!("{path}.failover[{at}]"), "fails over to itself")
                .done();
        }
    }
    let wants_failover = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    if wants_failover && !ejects {
        report
            .warn(
                path,
                "failover needs outlierDetection to notice that endpoints fail",
            )
            .fix("add outlierDetection beside loadBalancer");
    }
}

fn connection_pool(pool: &ConnectionPoolSettings, path: &str, report: &mut Report) {
    if pool.tcp.is_none() && pool.http.is_none() {
        report.error(path, "is empty").fix("add tcp or http");
    }
    let mut limits = Vec::new();
    if let Some(tcp) = &pool.tcp {
        limits.push((tcp.max_connections, "tcp.maxConnections"));
    }
    if let Some(http) = &pool.http {
        limits.extend([
            (
                http.http1_max_pending_requests,
                "http.http1MaxPendingRequests",
            ),
            (http.http2_max_requests, "http.http2MaxRequests"),
            (
                http.max_requests_per_connection,
                "http.maxRequestsPerConnection",
            ),
            (http.max_retries, "http.maxRetries"),
            (http.max_concurrent_streams, "http.maxConcurrentStreams"),
        ]);
        if http.use_client_protocol && http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) {
            report
                .error(
                    format!("{path}.http.useClientProtocol"),
                    "contradicts h2UpgradePolicy UPGRADE",
                )
                .fix("keep only one of them");
        }
    }
    for (value, name) in limits {
        if let Some(value) = value.filter(|value| *value < 0) {
            report
                .error(format!("{path}.{name}"), "is negative")
                .value(value)
                .fix("remove it for no limit");
        }
    }
}

fn outlier(outlier: &OutlierDetection, path: &str, report: &mut Report) {
    if outlier.consecutive_errors.is_some() {
        report
            .warn(
                format!("{path}.consecutiveErrors"),
                "is deprecated; Malla reads it as consecutiveGatewayErrors, current Istio ignores it",
            )
            .code(Code::Deprecated)
            .fix("use consecutiveGatewayErrors (502, 503, 504) or consecutive5xxErrors");
    }
    let local = outlier.consecutive_local_origin_failures.unwrap_or(0);
    if local > 0 && !outlier.split_external_local_origin_errors {
        report
            .error(
                format!("{path}.consecutiveLocalOriginFailures"),
                "needs splitExternalLocalOriginErrors",
            )
            .fix("set splitExternalLocalOriginErrors: true");
    }
    for (value, name) in [
        (outlier.max_ejection_percent, "maxEjectionPercent"),
        (outlier.min_health_percent, "minHealthPercent"),
    ] {
        if let Some(percent) = value.filter(|percent| !(0..=100).contains(percent)) {
            report
                .error(format!("{path}.{name}"), "is not between 0 and 100")
                .value(percent)
                .done();
        }
    }
}

fn tls(tls: &ClientTlsSettings, path: &str, report: &mut Report) {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if tls.insecure_skip_verify == Some(true)
        && (set(&tls.ca_certificates) || !tls.subject_alt_names.is_empty())
    {
        report
            .error(
                format!("{path}.insecureSkipVerify"),
                "contradicts caCertificates and subjectAltNames, which verify",
            )
            .done();
    }
    match tls.mode {
        Some(ClientTlsMode::IstioMutual) => {
            for (value, name) in [
                (&tls.client_certificate, "clientCertificate"),
                (&tls.private_key, "privateKey"),
                (&tls.ca_certificates, "caCertificates"),
                (&tls.ca_crl, "caCrl"),
            ] {
                if set(value) {
                    report
                        .error(
                            format!("{path}.{name}"),
                            "ISTIO_MUTUAL uses the mesh's own certificates",
                        )
                        .fix("remove it, or use MUTUAL");
                }
            }
        }
        Some(ClientTlsMode::Mutual) if set(&tls.credential_name) => {
            if set(&tls.client_certificate) || set(&tls.private_key) {
                report
                    .error(
                        path,
                        "credentialName already names the client's certificate",
                    )
                    .done();
            }
        }
        Some(ClientTlsMode::Mutual) => {
            for (value, name) in [
                (&tls.client_certificate, "clientCertificate"),
                (&tls.private_key, "privateKey"),
            ] {
                if !set(value) {
                    report
                        .error(format!("{path}.{name}"), "is required by MUTUAL")
                        .done();
                }
            }
        }
        Some(ClientTlsMode::Simple | ClientTlsMode::Disable) | None => {}
    }
}

fn tunnel(tunnel: &TunnelSettings, path: &str, report: &mut Report) {
    if !matches!(
        tunnel.protocol.as_deref().unwrap_or_default(),
        "" | "CONNECT" | "POST"
    ) {
        report
            .error(format!("{path}.protocol"), "must be CONNECT or POST")
            .done();
    }
    if tunnel.target_host.parse::<IpAddr>().is_err() && !names::is_fqdn(&tunnel.target_host) {
        report
            .error(
                format!("{path}.targetHost"),
                "must be a host name or an IP address",
            )
            .value(format!("{:?}", tunnel.target_host))
            .done();
    }
    names::port(tunnel.target_port, &format!("{path}.targetPort"), report);
}

#[cfg(test)]
mod tests {
    use super::is_prime;

    #[test]
    fn primes() {
        let primes: Vec<u64> = (0..20).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19]);
        assert!(is_prime(65537));
    }
}
