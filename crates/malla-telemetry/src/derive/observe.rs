//! One access log entry as one observation with Istio's labels: a pure function of who wrote it,
//! what it says, and who has which address.
//!
//! Labels and their fall-backs are those of Istio's `istio_stats` filter.

use std::sync::Arc;

use malla_xds_proto::pb::envoy::data::accesslog::v3::tls_properties::CertificateProperties;
use malla_xds_proto::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, TcpAccessLogEntry,
};

use super::own::Own;
use super::workloads::{ServicePort, Workload, Workloads};
use crate::logs::als::{duration_ms, flag_names, ip};

/// Bytes of a label's value; longer ones are cut.
const LONGEST: usize = 256;
const UNKNOWN: &str = "unknown";

/// Labels, and what is added under them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) amount: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Amount {
    Http {
        milliseconds: f64,
        request_bytes: f64,
        response_bytes: f64,
    },
    /// A connection that ended.
    Tcp { sent: u64, received: u64 },
}

/// A request. `None` for one that the filter would not have counted.
pub(super) fn http(own: &Own, entry: &HttpAccessLogEntry, known: &Workloads) -> Option<Observed> {
    let common = entry.common_properties.as_ref()?;
    if !is_end(common) {
        return None;
    }
    let request = entry.request.clone().unwrap_or_default();
    let response = entry.response.clone().unwrap_or_default();
    let status = response
        .response_trailers
        .get("grpc-status")
        .or_else(|| response.response_headers.get("grpc-status"));
    let kind = request.request_headers.get("content-type");
    let grpc = status.is_some() || kind.is_some_and(|kind| kind.starts_with("application/grpc"));
    let mut labels = ends(own, common, &request.authority, known);
    labels.extend([
        (
            "request_protocol",
            if grpc { "grpc" } else { "http" }.to_owned(),
        ),
        (
            "response_code",
            response
                .response_code
                .map_or(0, |code| code.value)
                .to_string(),
        ),
        ("response_flags", flags(common)),
    ]);
    if grpc {
        let status = status.cloned().unwrap_or_default();
        labels.push(("grpc_response_status", status));
    }
    let bytes = |wire: u64, headers: u64, body: u64| match wire {
        0 => (headers.saturating_add(body)) as f64,
        wire => wire as f64,
    };
    let duration = common
        .duration
        .or(common.time_to_last_downstream_tx_byte)
        .map_or(0.0, duration_ms);
    Some(Observed {
        labels: cut(labels),
        amount: Amount::Http {
            milliseconds: duration.max(0.0).floor(),
            request_bytes: bytes(
                common.downstream_wire_bytes_received,
                request.request_headers_bytes,
                request.request_body_bytes,
            ),
            response_bytes: bytes(
                common.downstream_wire_bytes_sent,
                response.response_headers_bytes,
                response.response_body_bytes,
            ),
        },
    })
}

/// A connection that ended. `None` for one that the filter would not have counted.
pub(super) fn tcp(own: &Own, entry: &TcpAccessLogEntry, known: &Workloads) -> Option<Observed> {
    let common = entry.common_properties.as_ref()?;
    // A listener without a chain for the connection: there is no filter to count it.
    if !is_end(common) || common.upstream_cluster.is_empty() {
        return None;
    }
    let connection = entry.connection_properties.unwrap_or_default();
    let mut labels = ends(own, common, "", known);
    labels.extend([
        ("request_protocol", "tcp".to_owned()),
        ("response_flags", flags(common)),
    ]);
    Some(Observed {
        labels: cut(labels),
        amount: Amount::Tcp {
            sent: connection.sent_bytes,
            received: connection.received_bytes,
        },
    })
}

/// Entries in between, and those of the upstream's half, tell of the same request again.
fn is_end(common: &AccessLogCommon) -> bool {
    matches!(
        AccessLogType::try_from(common.access_log_type),
        Ok(AccessLogType::NotSet | AccessLogType::DownstreamEnd | AccessLogType::TcpConnectionEnd)
    )
}

/// Which side wrote it, who called whom, and how.
fn ends(
    own: &Own,
    common: &AccessLogCommon,
    authority: &str,
    known: &Workloads,
) -> Vec<(&'static str, String)> {
    let inbound = is_inbound(own, common);
    let unknown = || UNKNOWN.to_owned();
    let mut labels = Vec::with_capacity(28);
    if inbound {
        let direct = common.downstream_direct_remote_address.as_ref();
        let peer = ip(direct.or(common.downstream_remote_address.as_ref()));
        let peer = peer.and_then(|peer| known.find(peer));
        let tls = common.tls_properties.as_ref();
        let theirs = tls.and_then(|tls| principal(tls.peer_certificate_properties.as_ref()));
        let ours = tls.and_then(|tls| principal(tls.local_certificate_properties.as_ref()));
        let security = if theirs.is_some() {
            "mutual_tls"
        } else {
            "none"
        };
        labels.push(("reporter", "destination".to_owned()));
        describe(&mut labels, SOURCE, peer.as_deref(), theirs);
        describe(&mut labels, DESTINATION, Some(&own.workload), ours);
        let service = own_service(own, &common.upstream_cluster, known);
        let service = service.unwrap_or_else(|| ServicePort {
            target: 0,
            host: unknown(),
            name: unknown(),
            namespace: own.workload.namespace.clone(),
        });
        name(&mut labels, service, UNKNOWN);
        labels.push(("connection_security_policy", security.to_owned()));
    } else {
        let peer = ip(common.upstream_remote_address.as_ref()).and_then(|peer| known.find(peer));
        labels.push(("reporter", "source".to_owned()));
        describe(&mut labels, SOURCE, Some(&own.workload), None);
        describe(&mut labels, DESTINATION, peer.as_deref(), None);
        // Gateways do not believe hosts: anybody may send any.
        let authority = if own.gateway { "" } else { authority };
        let peers = peer.as_ref().map_or(UNKNOWN, |peer| &peer.namespace);
        name(&mut labels, called_service(common, authority), peers);
        labels.push(("connection_security_policy", unknown()));
    }
    labels
}

fn is_inbound(own: &Own, common: &AccessLogCommon) -> bool {
    if own.gateway {
        return false;
    }
    match common.upstream_cluster.split_once('|') {
        Some(("inbound", _)) => true,
        Some(("outbound", _)) => false,
        // No route, or no service: it is inbound when it was sent to the pod itself.
        _ => own.address.is_some() && ip(common.downstream_local_address.as_ref()) == own.address,
    }
}

const SOURCE: [&str; 8] = [
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
];
const DESTINATION: [&str; 8] = [
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
];

fn describe(
    labels: &mut Vec<(&'static str, String)>,
    names: [&'static str; 8],
    workload: Option<&Workload>,
    principal: Option<String>,
) {
    let or = |value: Option<&String>, missing: &str| {
        let value = value.filter(|value| !value.is_empty());
        value.map_or_else(|| missing.to_owned(), Clone::clone)
    };
    let unknown = |pick: fn(&Workload) -> &String| or(workload.map(pick), UNKNOWN);
    let values = [
        unknown(|w| &w.name),
        unknown(|w| &w.namespace),
        principal.unwrap_or_else(|| UNKNOWN.to_owned()),
        unknown(|w| &w.app),
        unknown(|w| &w.version),
        unknown(|w| &w.canonical_service),
        or(workload.map(|w| &w.canonical_revision), "latest"),
        unknown(|w| &w.cluster),
    ];
    labels.extend(names.into_iter().zip(values));
}

fn name(labels: &mut Vec<(&'static str, String)>, service: ServicePort, fallback: &str) {
    let or = |text: String, missing: &str| {
        if text.is_empty() {
            missing.to_owned()
        } else {
            text
        }
    };
    labels.extend([
        ("destination_service", or(service.host, UNKNOWN)),
        ("destination_service_name", or(service.name, UNKNOWN)),
        (
            "destination_service_namespace",
            or(service.namespace, fallback),
        ),
    ]);
}

/// The service of its own that a caller meant: one that leads to the port (`inbound|7000||`).
fn own_service(own: &Own, cluster: &str, known: &Workloads) -> Option<ServicePort> {
    let port: u16 = cluster.split('|').nth(1)?.parse().ok()?;
    let workload: Arc<Workload> = known.find(own.address?)?;
    let mut services = workload.services.iter();
    services.find(|service| service.target == port).cloned()
}

/// The service a caller's proxy chose (`outbound|80|v1|cart.base.svc.cluster.local`), or meant.
fn called_service(common: &AccessLogCommon, authority: &str) -> ServicePort {
    let cluster = &common.upstream_cluster;
    let host = match cluster.strip_prefix("outbound|") {
        Some(rest) => rest.rsplit('|').next().unwrap_or_default(),
        None => {
            let name = match common.route_name.as_str() {
                "block_all" => "BlackHoleCluster",
                "allow_any" => "PassthroughCluster",
                _ if cluster.is_empty() => authority,
                _ => cluster,
            };
            return ServicePort {
                host: authority.to_owned(),
                name: name.to_owned(),
                ..ServicePort::default()
            };
        }
    };
    let (name, namespace) = match host.split_once(".svc.") {
        Some((service, _)) => service.split_once('.').unwrap_or((service, "")),
        None => (host, ""),
    };
    ServicePort {
        target: 0,
        host: host.to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    }
}

fn principal(certificate: Option<&CertificateProperties>) -> Option<String> {
    let mut names = certificate?.subject_alt_name.iter();
    names.find_map(|name| match name.san.as_ref()? {
        San::Uri(uri) => Some(uri.clone()),
        San::Dns(_) => None,
    })
}

fn flags(common: &AccessLogCommon) -> String {
    let flags = common.response_flags.as_ref().map(flag_names);
    match flags.unwrap_or_default() {
        none if none.is_empty() => "-".to_owned(),
        some => some.join(","),
    }
}

fn cut(mut labels: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    for (_, value) in &mut labels {
        value.truncate(value.floor_char_boundary(LONGEST));
    }
    labels
}
