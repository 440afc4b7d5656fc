//! Graphs of small meshes.

use std::sync::Arc;

use super::*;
use crate::metrics::{Labels, MetricStore, MetricsConfig, Row, Sample};
use crate::promql::QueryConfig;
use crate::scrape::text;

/// Every line is a series and its rate per second.
const DATA: &str = r#"
istio_requests_total{reporter="source",WEB_DB,request_protocol="http",response_code="200",connection_security_policy="unknown"} 9
istio_requests_total{reporter="source",WEB_DB,request_protocol="http",response_code="503",connection_security_policy="unknown"} 1
istio_requests_total{reporter="destination",WEB_DB,request_protocol="http",response_code="200",connection_security_policy="mutual_tls"} 6
istio_requests_total{reporter="destination",WEB_DB,request_protocol="http",response_code="200",connection_security_policy="none"} 2
istio_request_duration_milliseconds_bucket{reporter="source",WEB_DB,request_protocol="http",le="10"} 5
istio_request_duration_milliseconds_bucket{reporter="source",WEB_DB,request_protocol="http",le="50"} 10
istio_request_duration_milliseconds_bucket{reporter="source",WEB_DB,request_protocol="http",le="+Inf"} 10
istio_request_bytes_sum{reporter="source",WEB_DB,request_protocol="http"} 100
istio_response_bytes_sum{reporter="source",WEB_DB,request_protocol="http"} 300
istio_requests_total{reporter="source",GATE_WEB,request_protocol="grpc",response_code="200",grpc_response_status="14"} 1
istio_requests_total{reporter="source",GATE_WEB,request_protocol="grpc",response_code="200",grpc_response_status="0"} 3
istio_requests_total{reporter="destination",source_workload="unknown",source_workload_namespace="unknown",TO_WEB,request_protocol="http",response_code="200"} 2
istio_requests_total{reporter="source",WEB,destination_workload="unknown",destination_workload_namespace="unknown",destination_service="www.example.org",destination_service_name="www.example.org",destination_service_namespace="base",request_protocol="http",response_code="0"} 1
istio_tcp_sent_bytes_total{reporter="source",WEB,TO_REDIS,request_protocol="tcp"} 50
istio_tcp_received_bytes_total{reporter="destination",WEB,TO_REDIS,request_protocol="tcp",connection_security_policy="mutual_tls"} 20
istio_tcp_connections_opened_total{reporter="source",WEB,TO_REDIS,request_protocol="tcp"} 4
"#;

const SHORT: &[(&str, &str)] = &[
    (
        "WEB_DB",
        "WEB,destination_workload=\"db-v1\",destination_workload_namespace=\"base\",destination_canonical_service=\"db\",destination_version=\"v1\",destination_service=\"db.base.svc.cluster.local\",destination_service_name=\"db\",destination_service_namespace=\"base\"",
    ),
    (
        "GATE_WEB",
        "source_workload=\"ingress\",source_workload_namespace=\"edge\",source_canonical_service=\"ingress\",TO_WEB",
    ),
    (
        "TO_WEB",
        "destination_workload=\"web-v2\",destination_workload_namespace=\"base\",destination_canonical_service=\"web\",destination_version=\"v2\",destination_service=\"web.base.svc.cluster.local\",destination_service_name=\"web\",destination_service_namespace=\"base\"",
    ),
    (
        "TO_REDIS",
        "destination_workload=\"redis\",destination_workload_namespace=\"data\",destination_canonical_service=\"redis\",destination_service=\"redis.data.svc.cluster.local\",destination_service_name=\"redis\",destination_service_namespace=\"data\"",
    ),
    (
        "WEB",
        "source_workload=\"web-v2\",source_workload_namespace=\"base\",source_canonical_service=\"web-app\",source_version=\"v2\"",
    ),
];

fn engine(folder: &std::path::Path) -> Engine {
    let store = MetricStore::open(folder, MetricsConfig::default()).unwrap();
    for line in DATA.lines().filter(|line| !line.is_empty()) {
        let (series, rate) = line.rsplit_once(' ').unwrap();
        let mut series = series.to_owned();
        for (short, long) in SHORT {
            // Not within names of labels that merely contain it.
            series = series.replace(&format!("{short},"), &format!("{long},"));
            series = series.replace(&format!("{short}}}"), &format!("{long}}}"));
        }
        let labels = Labels::new(text::labels(&series).unwrap());
        let rate: f64 = rate.parse().unwrap();
        let mut rows: Vec<Row> = (0..=24)
            .map(|at| Row {
                labels: labels.clone(),
                series: None,
                sample: Sample {
                    t: at * 5_000,
                    v: 1_000_000.0 + rate * at as f64 * 5.0,
                },
            })
            .collect();
        assert_eq!(store.append(120_000, &mut rows).accepted, 25, "{series}");
    }
    Engine::new(Arc::new(store), QueryConfig::default())
}

fn graph(view: View, namespaces: &[&str]) -> Graph {
    let folder = tempfile::tempdir().unwrap();
    let query = GraphQuery {
        window: 60_000,
        end: 120_000,
        view,
        namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
        gateways: [("edge".to_owned(), "ingress".to_owned())].into(),
    };
    build(&engine(folder.path()), &query, &Cancel::default()).unwrap()
}

fn shown(graph: &Graph) -> Vec<String> {
    let round = |v: f64| (v * 1000.0).round() / 1000.0;
    let edges = graph.edges.iter().map(|e| {
        let p50 = e
            .p50
            .map(|v| format!(" p50={}", round(v)))
            .unwrap_or_default();
        format!(
            "{} -> {} {:?} {}/s {}err {}B/s mtls={}{p50}",
            e.source,
            e.target,
            e.protocol,
            round(e.rps),
            round(e.error_share),
            round(e.bytes_per_second),
            round(e.mtls)
        )
    });
    edges.collect()
}

#[test]
fn services_call_each_other() {
    let graph = graph(View::Service, &[]);
    assert_eq!(
        shown(&graph),
        [
            "service/base/web -> service/base/db Http 10/s 0.1err 400B/s mtls=0.75 p50=10",
            "service/base/web -> service/data/redis Tcp 4/s 0err 50B/s mtls=1",
            "service/base/web -> external/www.example.org Http 1/s 1err 0B/s mtls=0",
            "gateway/edge/ingress -> service/base/web Grpc 4/s 0.25err 0B/s mtls=0",
            "unknown/unknown -> service/base/web Http 2/s 0err 0B/s mtls=0",
        ]
    );
    let web = graph
        .nodes
        .iter()
        .find(|n| n.id == "service/base/web")
        .unwrap();
    assert!((web.rps - 6.0).abs() < 1e-6 && web.in_mesh);
    let outside = graph
        .nodes
        .iter()
        .find(|n| n.kind == NodeKind::External)
        .unwrap();
    assert!(!outside.in_mesh && outside.namespace.is_empty());
    assert_eq!((graph.at, graph.window), (120.0, 60.0));
}

#[test]
fn workloads_and_versions_have_their_own_nodes() {
    let workloads = shown(&graph(View::Workload, &["data"]));
    assert_eq!(
        workloads,
        ["workload/base/web-v2 -> workload/data/redis Tcp 4/s 0err 50B/s mtls=1"]
    );
    let versions = graph(View::Version, &["base"]);
    let db = versions.nodes.iter().find(|n| n.name == "db").unwrap();
    assert_eq!(
        (&*db.id, db.version.as_deref()),
        ("version/base/db/v1", Some("v1"))
    );
}

#[test]
fn an_empty_store_has_an_empty_graph() {
    let folder = tempfile::tempdir().unwrap();
    let store = MetricStore::open(folder.path(), MetricsConfig::default()).unwrap();
    let engine = Engine::new(Arc::new(store), QueryConfig::default());
    let query = GraphQuery {
        window: 60_000,
        ..GraphQuery::default()
    };
    let graph = build(&engine, &query, &Cancel::default()).unwrap();
    assert!(graph.nodes.is_empty() && graph.edges.is_empty());
}
