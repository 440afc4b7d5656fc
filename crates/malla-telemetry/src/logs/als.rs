//! Envoy's access log service (gRPC, v3): HTTP and TCP entries.
//!
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/accesslog/v3/als.proto>. The stream
//! is one-way: what does not fit into the queue is dropped and counted, and Envoy never waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use malla_xds_proto::core::address::Address as AnyAddress;
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{Address, Node, RequestMethod};
use malla_xds_proto::pb::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use malla_xds_proto::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, ResponseFlags, TcpAccessLogEntry,
};
use malla_xds_proto::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use malla_xds_proto::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use malla_xds_proto::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use malla_xds_proto::pb::google::protobuf::value::Kind;
use malla_xds_proto::pb::google::protobuf::{Duration, Struct, Timestamp};
use tonic::{Request, Response, Status, Streaming};

use crate::derive::{Counting, Deriver, Workloads};
use crate::logs::LogIntake;
use crate::logs::line::{LogLine, Origin, trace_id};

/// The gRPC service.
#[derive(Debug)]
pub(crate) struct Als {
    pub(crate) intake: Arc<LogIntake>,
    pub(crate) streams: Arc<AtomicU64>,
    pub(crate) deriver: Arc<Deriver>,
}

/// Counts a stream while it is open.
struct OpenStream(Arc<AtomicU64>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl AccessLogService for Als {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let _open = OpenStream(self.streams.clone());
        let mut stream = request.into_inner();
        let mut origin = Origin::default();
        let mut counting = None;
        let workloads = self.deriver.workloads();
        while let Some(message) = stream.message().await? {
            // Only the first message names the node.
            if let Some(identifier) = message.identifier {
                let node = identifier.node.as_ref();
                origin = node.map(node_origin).unwrap_or_default();
                counting = node.and_then(|node| self.deriver.begin(node));
            }
            if let (Some(counting), Some(entries)) = (&counting, &message.log_entries) {
                self.count(counting, entries);
            }
            let lines: Vec<LogLine> = match message.log_entries {
                Some(LogEntries::HttpLogs(logs)) => logs
                    .log_entry
                    .into_iter()
                    .map(|entry| http_line(entry, &origin, workloads))
                    .collect(),
                Some(LogEntries::TcpLogs(logs)) => logs
                    .log_entry
                    .into_iter()
                    .map(|entry| tcp_line(entry, &origin, workloads))
                    .collect(),
                None => continue,
            };
            self.intake.take(lines);
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

impl Als {
    /// For the metrics of a proxy that does not count itself.
    fn count(&self, counting: &Counting, entries: &LogEntries) {
        match entries {
            LogEntries::HttpLogs(logs) => {
                for entry in &logs.log_entry {
                    self.deriver.http(counting, entry);
                }
            }
            LogEntries::TcpLogs(logs) => {
                for entry in &logs.log_entry {
                    self.deriver.tcp(counting, entry);
                }
            }
        }
    }
}

/// Istio's node id is `sidecar~10.0.0.1~pod.namespace~namespace.svc.cluster.local`; its metadata
/// says more.
fn node_origin(node: &Node) -> Origin {
    let mut parts = node.id.split('~');
    let kind = parts.next().unwrap_or_default();
    let (pod, namespace) = parts
        .nth(1)
        .and_then(|name| name.rsplit_once('.'))
        .unwrap_or((&node.id, ""));
    let or = |name: &str, fallback: &str| {
        let known = node
            .metadata
            .as_ref()
            .and_then(|metadata| text(metadata, name));
        known.unwrap_or(fallback).to_owned()
    };
    let workload = match pod
        .rsplit_once('-')
        .and_then(|(rest, _)| rest.rsplit_once('-'))
    {
        // deployment-hash-suffix
        Some((workload, _)) => workload,
        None => pod,
    };
    Origin {
        pod: or("NAME", pod),
        namespace: or("NAMESPACE", namespace),
        workload: or("WORKLOAD_NAME", workload),
        gateway: kind == "router",
    }
}

fn text<'a>(metadata: &'a Struct, name: &str) -> Option<&'a str> {
    match metadata.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn http_line(entry: HttpAccessLogEntry, origin: &Origin, workloads: &Workloads) -> LogLine {
    let common = entry.common_properties.unwrap_or_default();
    let request = entry.request.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let protocol = match HttpVersion::try_from(entry.protocol_version) {
        Ok(HttpVersion::Http10) => "HTTP/1.0",
        Ok(HttpVersion::Http11) => "HTTP/1.1",
        Ok(HttpVersion::Http2) => "HTTP/2",
        Ok(HttpVersion::Http3) => "HTTP/3",
        _ => "",
    };
    let method = match RequestMethod::try_from(request.request_method) {
        Ok(RequestMethod::MethodUnspecified) | Err(_) => "",
        Ok(method) => method.as_str_name(),
    };
    let path = match request.original_path.is_empty() {
        true => request.path,
        false => request.original_path,
    };
    let headers = &request.request_headers;
    let traced = trace_id(|name| headers.get(name).map(String::as_str));
    let line = LogLine {
        method: method.to_owned(),
        path,
        authority: request.authority,
        code: response.response_code.map_or(0, |code| code.value),
        bytes_sent: response.response_body_bytes,
        bytes_received: request.request_body_bytes,
        request_id: request.request_id,
        user_agent: request.user_agent,
        protocol: protocol.to_owned(),
        details: response.response_code_details,
        trace_id: traced,
        ..LogLine::default()
    };
    finish(line, common, origin, workloads)
}

fn tcp_line(entry: TcpAccessLogEntry, origin: &Origin, workloads: &Workloads) -> LogLine {
    let common = entry.common_properties.unwrap_or_default();
    let connection = entry.connection_properties.unwrap_or_default();
    let line = LogLine {
        bytes_sent: connection.sent_bytes,
        bytes_received: connection.received_bytes,
        protocol: "TCP".to_owned(),
        details: common.connection_termination_details.clone(),
        ..LogLine::default()
    };
    finish(line, common, origin, workloads)
}

/// What HTTP and TCP have in common.
fn finish(
    mut line: LogLine,
    common: AccessLogCommon,
    origin: &Origin,
    workloads: &Workloads,
) -> LogLine {
    let duration = common.duration.or(common.time_to_last_downstream_tx_byte);
    line.time = common.start_time.map_or(0, milliseconds);
    line.duration_ms = duration.map_or(0.0, duration_ms);
    line.flags = common
        .response_flags
        .map(|flags| flag_names(&flags))
        .unwrap_or_default();
    line.upstream_host = address(common.upstream_remote_address.as_ref());
    line.downstream = address(common.downstream_remote_address.as_ref());
    line.upstream_cluster = common.upstream_cluster;
    line.route = common.route_name;
    line.failure = common.upstream_transport_failure_reason;
    let tags = &common.custom_tags;
    take(tags, "source_workload", &mut line.source);
    take(tags, "destination_workload", &mut line.destination);
    take(tags, "reporter", &mut line.reporter);
    if line.trace_id.is_empty() {
        let tag = tags.get("trace_id").map(String::as_str);
        line.trace_id = trace_id(|name| tag.filter(|_| name == "x-b3-traceid"));
    }
    let sni = common
        .tls_properties
        .as_ref()
        .map(|tls| tls.tls_sni_hostname.as_str());
    if line.authority.is_empty() {
        line.authority = sni.unwrap_or_default().to_owned();
    }
    let peer = common.tls_properties.as_ref().and_then(|tls| {
        let names = &tls.peer_certificate_properties.as_ref()?.subject_alt_name;
        names.iter().find_map(|name| match name.san.as_ref()? {
            San::Uri(uri) => Some(uri.as_str()),
            San::Dns(_) => None,
        })
    });
    let told = !line.source.is_empty();
    let mut line = line.complete(origin, peer);
    // A certificate names an account, which many workloads may share; an address is one pod's.
    if !told && line.reporter == "destination" {
        let direct = common.downstream_direct_remote_address.as_ref();
        let caller = ip(direct).and_then(|caller| workloads.find(caller));
        if let Some(caller) = caller {
            line.source = format!("{}.{}", caller.name, caller.namespace);
        }
    }
    line
}

/// The address of a socket, if it is one.
pub(crate) fn ip(address: Option<&Address>) -> Option<IpAddr> {
    match address?.address.as_ref()? {
        AnyAddress::SocketAddress(socket) => socket.address.parse().ok(),
        _ => None,
    }
}

fn take(tags: &HashMap<String, String>, name: &str, field: &mut String) {
    if let Some(value) = tags
        .get(name)
        .filter(|value| !value.is_empty() && *value != "-")
    {
        field.clone_from(value);
    }
}

fn milliseconds(time: Timestamp) -> i64 {
    time.seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(time.nanos) / 1_000_000)
}

pub(crate) fn duration_ms(duration: Duration) -> f64 {
    duration.seconds as f64 * 1000.0 + f64::from(duration.nanos) / 1e6
}

fn address(address: Option<&Address>) -> String {
    match address.and_then(|address| address.address.as_ref()) {
        Some(AnyAddress::SocketAddress(socket)) => {
            let port = match &socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => port.to_string(),
                Some(PortSpecifier::NamedPort(name)) => name.clone(),
                None => String::new(),
            };
            match socket.address.contains(':') {
                _ if port.is_empty() || port == "0" => socket.address.clone(),
                true => format!("[{}]:{port}", socket.address),
                false => format!("{}:{port}", socket.address),
            }
        }
        Some(AnyAddress::Pipe(pipe)) => pipe.path.clone(),
        Some(AnyAddress::EnvoyInternalAddress(_)) => "envoy://internal".to_owned(),
        None => String::new(),
    }
}

/// The short names that text logs have.
pub(crate) fn flag_names(flags: &ResponseFlags) -> Vec<String> {
    let set = [
        (flags.failed_local_healthcheck, "LH"),
        (flags.no_healthy_upstream, "UH"),
        (flags.upstream_request_timeout, "UT"),
        (flags.local_reset, "LR"),
        (flags.upstream_remote_reset, "UR"),
        (flags.upstream_connection_failure, "UF"),
        (flags.upstream_connection_termination, "UC"),
        (flags.upstream_overflow, "UO"),
        (flags.no_route_found, "NR"),
        (flags.delay_injected, "DI"),
        (flags.fault_injected, "FI"),
        (flags.rate_limited, "RL"),
        (flags.unauthorized_details.is_some(), "UAEX"),
        (flags.rate_limit_service_error, "RLSE"),
        (flags.downstream_connection_termination, "DC"),
        (flags.upstream_retry_limit_exceeded, "URX"),
        (flags.stream_idle_timeout, "SI"),
        (flags.invalid_envoy_request_headers, "IH"),
        (flags.downstream_protocol_error, "DPE"),
        (flags.upstream_max_stream_duration_reached, "UMSDR"),
        (flags.response_from_cache_filter, "RFCF"),
        (flags.no_filter_config_found, "NFCF"),
        (flags.duration_timeout, "DT"),
        (flags.upstream_protocol_error, "UPE"),
        (flags.no_cluster_found, "NC"),
        (flags.overload_manager, "OM"),
        (flags.dns_resolution_failure, "DF"),
        (flags.downstream_remote_reset, "DR"),
    ];
    let names = set.into_iter().filter(|(set, _)| *set);
    names.map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use malla_xds_proto::core::SocketAddress;

    use super::*;
    use crate::derive::Workload;

    fn at(ip: &str, port: u32) -> Option<Address> {
        let socket = SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        };
        Some(Address {
            address: Some(AnyAddress::SocketAddress(socket)),
        })
    }

    #[test]
    fn a_caller_is_known_by_the_address_its_call_came_from() {
        let workloads = Workloads::default();
        let cart = Workload {
            name: "cart".to_owned(),
            namespace: "base".to_owned(),
            ..Workload::default()
        };
        workloads.replace([("10.0.0.2".parse().unwrap(), Arc::new(cart))].into());
        let source = |cluster: &str, told: &str| {
            let common = AccessLogCommon {
                upstream_cluster: cluster.to_owned(),
                // Whoever is said to have asked first is not who called.
                downstream_remote_address: at("203.0.113.9", 0),
                downstream_direct_remote_address: at("10.0.0.2", 7),
                custom_tags: [("source_workload".to_owned(), told.to_owned())].into(),
                ..AccessLogCommon::default()
            };
            let origin = Origin {
                workload: "own".to_owned(),
                ..Origin::default()
            };
            let line = finish(LogLine::default(), common, &origin, &workloads);
            assert_eq!(line.downstream, "203.0.113.9");
            line.source
        };
        assert_eq!(source("inbound|80||", ""), "cart.base");
        assert_eq!(source("inbound|80||", "told"), "told");
        assert_eq!(source("outbound|80||x", ""), "own");
    }

    #[test]
    fn addresses_are_written_as_hosts_and_ports() {
        assert_eq!(address(at("10.0.0.1", 80).as_ref()), "10.0.0.1:80");
        assert_eq!(address(at("fd00::1", 80).as_ref()), "[fd00::1]:80");
        assert_eq!(address(at("fd00::1", 0).as_ref()), "fd00::1");
        assert_eq!(address(None), "");
    }
}
