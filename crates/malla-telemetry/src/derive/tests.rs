//! Entries as stock Envoy sends them, and the series that come of them.

use malla_xds_proto::core::address::Address as AnyAddress;
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{Address, Extension, SocketAddress};
use malla_xds_proto::pb::envoy::data::accesslog::v3::tls_properties::CertificateProperties;
use malla_xds_proto::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::SubjectAltName;
use malla_xds_proto::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, ConnectionProperties, HttpRequestProperties, HttpResponseProperties,
    ResponseFlags, TlsProperties,
};
use malla_xds_proto::pb::google::protobuf::value::Kind;
use malla_xds_proto::pb::google::protobuf::{Duration as Long, Struct, UInt32Value, Value};

use super::*;

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

fn fields(pairs: &[(&str, Value)]) -> Struct {
    let fields = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    Struct {
        fields: fields.collect(),
    }
}

fn node(kind: &str) -> Node {
    let labels = fields(&[("app", text("cart")), ("version", text("v1"))]);
    let labels = Value {
        kind: Some(Kind::StructValue(labels)),
    };
    Node {
        id: format!("{kind}~10.0.0.1~cart-5-x.base~base.svc.cluster.local"),
        user_agent_name: "envoy".to_owned(),
        metadata: Some(fields(&[
            ("WORKLOAD_NAME", text("cart")),
            ("CLUSTER_ID", text("Kubernetes")),
            ("LABELS", labels),
        ])),
        ..Node::default()
    }
}

fn address(ip: &str) -> Option<Address> {
    let socket = SocketAddress {
        address: ip.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(1)),
        ..SocketAddress::default()
    };
    Some(Address {
        address: Some(AnyAddress::SocketAddress(socket)),
    })
}

fn certificate(uri: &str) -> Option<CertificateProperties> {
    Some(CertificateProperties {
        subject_alt_name: vec![SubjectAltName {
            san: Some(San::Uri(uri.to_owned())),
        }],
        ..CertificateProperties::default()
    })
}

fn workloads() -> Arc<Workloads> {
    let workloads = Workloads::default();
    let of = |name: &str, service: &str| {
        Arc::new(Workload {
            name: name.to_owned(),
            namespace: "base".to_owned(),
            app: name.to_owned(),
            canonical_service: name.to_owned(),
            canonical_revision: "v2".to_owned(),
            cluster: "Kubernetes".to_owned(),
            services: vec![ServicePort {
                target: 7000,
                host: format!("{service}.base.svc.cluster.local"),
                name: service.to_owned(),
                namespace: "base".to_owned(),
            }],
            ..Workload::default()
        })
    };
    workloads.replace(
        [
            ("10.0.0.1".parse().unwrap(), of("cart", "cart-svc")),
            ("10.0.0.2".parse().unwrap(), of("order", "order")),
        ]
        .into(),
    );
    Arc::new(workloads)
}

fn http(common: AccessLogCommon) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(common),
        request: Some(HttpRequestProperties {
            authority: "asked.example".to_owned(),
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            ..HttpResponseProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    }
}

/// Counts an entry and hands back the labels of its requests.
#[track_caller]
fn labels(kind: &str, entry: &HttpAccessLogEntry) -> BTreeMap<String, String> {
    let deriver = Deriver::new(workloads());
    let counting = deriver.begin(&node(kind)).unwrap();
    deriver.http(&counting, entry);
    let mut found = BTreeMap::new();
    deriver.report(1, |rows| {
        let row = rows
            .iter()
            .find(|row| row.labels.name() == "istio_requests_total");
        let pairs = row.unwrap().labels.iter();
        found = pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
    });
    found
}

#[track_caller]
fn check(labels: &BTreeMap<String, String>, want: &[(&str, &str)]) {
    for (name, value) in want {
        assert_eq!(
            labels.get(*name).map(String::as_str),
            Some(*value),
            "{name}"
        );
    }
}

#[test]
fn a_caller_knows_the_service_it_chose_and_the_pod_that_answered() {
    let entry = http(AccessLogCommon {
        upstream_cluster: "outbound|7000|v1|order.base.svc.cluster.local".to_owned(),
        upstream_remote_address: address("10.0.0.2"),
        ..AccessLogCommon::default()
    });
    let labels = labels("sidecar", &entry);
    check(
        &labels,
        &[
            ("reporter", "source"),
            ("source_workload", "cart"),
            ("source_version", "v1"),
            ("source_canonical_revision", "v1"),
            ("source_principal", "unknown"),
            ("destination_workload", "order"),
            ("destination_version", "unknown"),
            ("destination_canonical_revision", "v2"),
            ("destination_cluster", "Kubernetes"),
            ("destination_service", "order.base.svc.cluster.local"),
            ("destination_service_name", "order"),
            ("destination_service_namespace", "base"),
            ("connection_security_policy", "unknown"),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("response_flags", "-"),
            ("job", "kubernetes-pods"),
            ("pod", "cart-5-x"),
            ("namespace", "base"),
            ("instance", "10.0.0.1:15020"),
        ],
    );
    assert!(!labels.contains_key("grpc_response_status"));
}

#[test]
fn a_callee_knows_who_called_by_address_and_certificate() {
    let mut entry = http(AccessLogCommon {
        upstream_cluster: "inbound|7000||".to_owned(),
        // Whoever is said to have asked first is not who called.
        downstream_remote_address: address("203.0.113.9"),
        downstream_direct_remote_address: address("10.0.0.2"),
        response_flags: Some(ResponseFlags {
            upstream_overflow: true,
            ..ResponseFlags::default()
        }),
        tls_properties: Some(TlsProperties {
            peer_certificate_properties: certificate("spiffe://cluster.local/ns/base/sa/order"),
            local_certificate_properties: certificate("spiffe://cluster.local/ns/base/sa/cart"),
            ..TlsProperties::default()
        }),
        ..AccessLogCommon::default()
    });
    let trailers = [("grpc-status".to_owned(), "14".to_owned())];
    entry.response.as_mut().unwrap().response_trailers = trailers.into();
    check(
        &labels("sidecar", &entry),
        &[
            ("reporter", "destination"),
            ("source_workload", "order"),
            (
                "source_principal",
                "spiffe://cluster.local/ns/base/sa/order",
            ),
            (
                "destination_principal",
                "spiffe://cluster.local/ns/base/sa/cart",
            ),
            ("destination_workload", "cart"),
            ("destination_service_name", "cart-svc"),
            ("connection_security_policy", "mutual_tls"),
            ("request_protocol", "grpc"),
            ("grpc_response_status", "14"),
            ("response_flags", "UO"),
        ],
    );
}

#[test]
fn what_has_no_service_is_named_as_istio_names_it() {
    let asks = |cluster: &str, route: &str, local: &str| {
        http(AccessLogCommon {
            upstream_cluster: cluster.to_owned(),
            route_name: route.to_owned(),
            downstream_local_address: address(local),
            ..AccessLogCommon::default()
        })
    };
    check(
        &labels(
            "sidecar",
            &asks("PassthroughCluster", "allow_any", "1.2.3.4"),
        ),
        &[
            ("reporter", "source"),
            ("destination_service", "asked.example"),
            ("destination_service_name", "PassthroughCluster"),
            ("destination_service_namespace", "unknown"),
            ("destination_workload", "unknown"),
            ("destination_canonical_revision", "latest"),
        ],
    );
    check(
        &labels("sidecar", &asks("", "block_all", "1.2.3.4")),
        &[("destination_service_name", "BlackHoleCluster")],
    );
    // Sent to the pod itself, and refused before a service was found.
    check(
        &labels("sidecar", &asks("", "", "10.0.0.1")),
        &[
            ("reporter", "destination"),
            ("destination_service", "unknown"),
            ("destination_service_namespace", "base"),
            ("connection_security_policy", "none"),
        ],
    );
    check(
        &labels("router", &asks("", "", "10.0.0.1")),
        &[("reporter", "source"), ("destination_service", "unknown")],
    );
}

#[test]
fn only_stock_envoys_are_counted_for() {
    let deriver = Deriver::new(Arc::default());
    let stock = node("sidecar");
    assert!(deriver.begin(&stock).is_some());
    let malla = Node {
        user_agent_name: "malla".to_owned(),
        ..stock.clone()
    };
    let istio = Node {
        extensions: vec![Extension {
            name: "istio.stats".to_owned(),
            ..Extension::default()
        }],
        ..stock.clone()
    };
    let nameless = Node {
        id: "x".to_owned(),
        ..stock
    };
    for other in [malla, istio, nameless] {
        assert!(deriver.begin(&other).is_none(), "{other:?}");
    }
}

/// All values by name and bound.
fn values(deriver: &Deriver) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    deriver.report(1, |rows| {
        for row in rows {
            let le = row.labels.get("le");
            all.insert(format!("{} {le}", row.labels.name()), row.sample.v);
        }
    });
    all
}

#[test]
fn requests_fill_counters_and_cumulative_buckets() {
    let deriver = Deriver::new(workloads());
    let counting = deriver.begin(&node("sidecar")).unwrap();
    for milliseconds in [0, 5, 6, 7_200_000] {
        let entry = http(AccessLogCommon {
            upstream_cluster: "outbound|80||order.base.svc.cluster.local".to_owned(),
            duration: Some(Long {
                seconds: milliseconds / 1000,
                nanos: i32::try_from(milliseconds % 1000).unwrap() * 1_000_000,
            }),
            downstream_wire_bytes_received: 100,
            downstream_wire_bytes_sent: 3000,
            ..AccessLogCommon::default()
        });
        deriver.http(&counting, &entry);
    }
    let all = values(&deriver);
    let duration = |part: &str| all[&format!("istio_request_duration_milliseconds{part}")];
    assert_eq!(all["istio_requests_total "], 4.0);
    assert_eq!(duration("_bucket 0.5"), 1.0);
    assert_eq!(duration("_bucket 5"), 2.0);
    assert_eq!(duration("_bucket 10"), 3.0);
    assert_eq!(duration("_bucket 3600000"), 3.0);
    assert_eq!(duration("_bucket +Inf"), 4.0);
    assert_eq!(duration("_count "), 4.0);
    assert_eq!(duration("_sum "), 7_200_011.0);
    assert_eq!(all["istio_request_bytes_sum "], 400.0);
    assert_eq!(all["istio_response_bytes_bucket 2500"], 0.0);
    assert_eq!(all.len(), 67);
}

#[test]
fn connections_are_counted_when_they_end() {
    let deriver = Deriver::new(workloads());
    let counting = deriver.begin(&node("sidecar")).unwrap();
    let entry = |cluster: &str| TcpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            upstream_cluster: cluster.to_owned(),
            ..AccessLogCommon::default()
        }),
        connection_properties: Some(ConnectionProperties {
            received_bytes: 10,
            sent_bytes: 20,
        }),
    };
    deriver.tcp(&counting, &entry("inbound|7000||"));
    deriver.tcp(&counting, &entry("inbound|7000||"));
    // No chain of the listener took it.
    deriver.tcp(&counting, &entry(""));
    let all = values(&deriver);
    assert_eq!(all["istio_tcp_connections_opened_total "], 2.0);
    assert_eq!(all["istio_tcp_connections_closed_total "], 2.0);
    assert_eq!(all["istio_tcp_sent_bytes_total "], 40.0);
    assert_eq!(all["istio_tcp_received_bytes_total "], 20.0);
}

#[test]
fn hostile_entries_are_bounded_and_counted() {
    let deriver = Deriver::new(workloads());
    let counting = deriver.begin(&node("sidecar")).unwrap();
    for at in 0..MOST_SETS + 10 {
        let long = "x".repeat(10_000);
        let entry = http(AccessLogCommon {
            upstream_cluster: format!("outbound|80||{at}{long}"),
            ..AccessLogCommon::default()
        });
        deriver.http(&counting, &entry);
    }
    assert_eq!(deriver.refused(), 10);
    deriver.report(1, |rows| {
        let longest = rows.iter().flat_map(|row| row.labels.iter());
        assert!(longest.map(|(_, value)| value.len()).max().unwrap() <= 256);
    });
}

#[test]
fn the_series_of_a_proxy_that_has_gone_end() {
    let deriver = Deriver::new(workloads());
    let counting = deriver.begin(&node("sidecar")).unwrap();
    deriver.http(&counting, &http(AccessLogCommon::default()));
    let now = Instant::now();
    assert_eq!(deriver.living(now + FORGOTTEN * 2).len(), 1);
    drop(counting);
    let gone = |later: Duration| deriver.living(now + later)[0].1;
    assert!(!gone(Duration::ZERO));
    assert!(!gone(FORGOTTEN));
    let (series, gone) = deriver
        .living(now + FORGOTTEN + Duration::from_secs(1))
        .remove(0);
    assert!(gone);
    series.report(9, gone, &mut |rows| {
        let stale = |row: &Row| row.sample.v.to_bits() == crate::metrics::STALE;
        assert!(rows.len() == 67 && rows.iter().all(stale));
    });
    assert!(deriver.living(now).is_empty());
}
