//! Series against what they should have come to, and what scrapes see of them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use malla_proxy_config::istio_stats::StatsConfig;
use malla_xds_proto::core::Node;
use malla_xds_proto::wkt;
use proptest::prelude::*;
use tokio::time::Instant;

use super::grpc::Messages;
use super::series::MOST_SETS;
use super::series::{BOUNDS, Histogram, SeriesRegistry};
use super::{Counted, Facts, MeshMetrics, Protocol, Reporter, RequestNumbers, Service};
use crate::peers::Own;
use crate::telemetry::record::Progress;

fn own() -> Arc<Own> {
    Arc::new(Own::from_node(&Node {
        metadata: Some(wkt::structure([
            ("WORKLOAD_NAME", wkt::string("web-v1")),
            ("NAMESPACE", wkt::string("base")),
            ("CLUSTER_ID", wkt::string("zone-a")),
            ("LABELS", wkt::object([("app", wkt::string("web"))])),
        ])),
        ..Node::default()
    }))
}

fn metrics(registry: &Arc<SeriesRegistry>) -> Rc<MeshMetrics> {
    MeshMetrics::new(own(), Arc::clone(registry))
}

fn facts<'a>(config: &'a StatsConfig, host: &'a str) -> Facts<'a> {
    Facts {
        config,
        counted: Counted::Requests,
        reporter: Reporter::Source,
        protocol: Protocol::Http,
        peer: None,
        peer_principal: "spiffe://cluster.local/ns/shop/sa/cart",
        own_principal: "spiffe://cluster.local/ns/base/sa/web",
        service: Service {
            host,
            name: "cart",
            namespace: "",
        },
        code: 200,
        grpc_status: None,
        flags: 0,
        mutual_tls: None,
        values: &[],
        overflow: false,
    }
}

fn scraped(registry: &SeriesRegistry) -> String {
    let mut out = String::new();
    for family in registry.families(&own()) {
        family.write(&mut out);
    }
    out
}

#[tokio::test]
async fn labels_are_istios_in_its_order() {
    let registry = Arc::default();
    let metrics = metrics(&registry);
    let config = StatsConfig::default();
    metrics.request(&facts(&config, "cart.shop"), RequestNumbers::default());
    let out = scraped(&registry);
    let want = "istio_requests_total{reporter=\"source\",source_workload=\"web-v1\",\
        source_canonical_service=\"web\",source_canonical_revision=\"latest\",\
        source_workload_namespace=\"base\",source_principal=\"spiffe://cluster.local/ns/base/sa/web\",\
        source_app=\"web\",source_version=\"unknown\",source_cluster=\"zone-a\",\
        destination_workload=\"unknown\",destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",destination_app=\"unknown\",\
        destination_version=\"unknown\",destination_service=\"cart.shop\",\
        destination_canonical_service=\"unknown\",destination_canonical_revision=\"latest\",\
        destination_service_name=\"cart\",destination_service_namespace=\"shop\",\
        destination_cluster=\"unknown\",request_protocol=\"http\",response_code=\"200\",\
        grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"unknown\"} 1\n";
    assert!(out.contains(want), "{out}");
    assert!(
        out.contains("istio_build{component=\"proxy\",tag=\""),
        "{out}"
    );
}

#[tokio::test]
async fn workers_are_added_up_and_numbers_have_their_buckets() {
    let registry = Arc::default();
    let config = StatsConfig::default();
    for worker in [metrics(&registry), metrics(&registry)] {
        let numbers = RequestNumbers {
            duration: Duration::from_micros(1500),
            request_bytes: 0,
            response_bytes: 10,
        };
        worker.request(&facts(&config, "cart"), numbers);
        worker.request(&facts(&config, "cart"), numbers);
    }
    let out = scraped(&registry);
    let line = |start: &str, end: &str| {
        let found = out
            .lines()
            .find(|line| line.starts_with(start) && line.contains(end));
        let found = found.unwrap_or_else(|| panic!("{start} {end} in\n{out}"));
        found.rsplit_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(line("istio_requests_total{", ""), "4");
    let duration = "istio_request_duration_milliseconds";
    assert_eq!(line(&format!("{duration}_bucket"), "le=\"1\"}"), "0");
    assert_eq!(line(&format!("{duration}_bucket"), "le=\"5\"}"), "4");
    assert_eq!(line(&format!("{duration}_sum"), ""), "6");
    assert_eq!(line("istio_request_bytes_bucket", "le=\"0.5\"}"), "4");
    assert_eq!(line("istio_response_bytes_bucket", "le=\"5\"}"), "0");
    assert_eq!(line("istio_response_bytes_bucket", "le=\"10\"}"), "4");
    assert_eq!(line("istio_response_bytes_count", ""), "4");
    assert!(
        !out.contains("istio_request_messages_total"),
        "only gRPC has messages"
    );
}

#[tokio::test]
async fn too_many_series_end_in_one_that_says_so_until_some_are_idle() {
    let registry: Arc<SeriesRegistry> = Arc::default();
    let metrics = metrics(&registry);
    let config = StatsConfig::default();
    let one = |host: &str| metrics.request(&facts(&config, host), RequestNumbers::default());
    for number in 0..MOST_SETS + 50 {
        one(&format!("host-{number}"));
    }
    let out = scraped(&registry);
    let overflow = "istio_requests_total{reporter=\"source\",request_protocol=\"http\",overflow=\"true\"} 50\n";
    assert!(
        out.contains(overflow),
        "{}",
        out.lines().find(|l| l.contains("overflow")).unwrap()
    );
    assert!(out.contains("malla_istio_series_overflow_total{} 50\n"));
    assert_eq!(registry.sets(), MOST_SETS + 1);

    let now = Instant::now();
    metrics.sweep(now + super::SWEEP);
    one("host-0"); // It moves, the others do not.
    metrics.sweep(now + super::IDLE * 2);
    one("late");
    let out = scraped(&registry);
    assert!(
        out.contains("destination_service=\"late\""),
        "the idle ones made room"
    );
    assert!(registry.all().len() < 10, "{}", registry.all().len());
}

#[tokio::test]
async fn messages_are_counted_while_calls_go_and_each_once() {
    let registry = Arc::default();
    let metrics = metrics(&registry);
    let config = StatsConfig::default();
    let facts = Facts {
        protocol: Protocol::Grpc,
        counted: Counted::Messages,
        ..facts(&config, "cart")
    };
    let value = |name: &str| {
        let out = scraped(&registry);
        let start = format!("istio_{name}_messages_total{{");
        let line = out.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{out}"));
        assert!(
            line.contains("destination_cluster=\"unknown\"} "),
            "the last label: {line}"
        );
        line.rsplit_once(' ').unwrap().1.to_owned()
    };
    let progress = Rc::<Progress>::default();
    let call = metrics.call(&facts, &progress);
    let say = |messages: &Cell<Messages>| {
        let mut seen = messages.get();
        seen.see(&[0, 0, 0, 0, 1, 7]);
        messages.set(seen);
    };
    say(&progress.messages);
    say(&call.answered);
    assert_eq!(
        (value("request"), value("response")),
        ("0".into(), "0".into())
    );
    metrics.count_calls(Instant::now() + Duration::from_secs(5));
    assert_eq!(
        (value("request"), value("response")),
        ("1".into(), "1".into())
    );
    say(&call.answered);
    drop(call);
    assert_eq!(
        (value("request"), value("response")),
        ("1".into(), "2".into())
    );
    metrics.count_calls(Instant::now() + Duration::from_secs(60));
    assert!(
        !scraped(&registry).contains("istio_requests_total{"),
        "no call has ended"
    );
}

#[tokio::test]
async fn values_are_escaped() {
    let registry = Arc::default();
    let config = StatsConfig::default();
    metrics(&registry).request(&facts(&config, "a\"b\\c\nd"), RequestNumbers::default());
    let out = scraped(&registry);
    assert!(
        out.contains("destination_service=\"a\\\"b\\\\c\\nd\""),
        "{out}"
    );
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let registry = Arc::default();
    let metrics = metrics(&registry);
    let config = StatsConfig::default();
    let facts = Facts {
        protocol: Protocol::Tcp,
        counted: Counted::Connections,
        ..facts(&config, "db")
    };
    let meter = metrics.open(&facts);
    meter.flush(10, 1);
    meter.flush(15, 3);
    let out = scraped(&registry);
    let value = |name: &str| {
        let found = out
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")));
        found
            .unwrap_or_else(|| panic!("{name} in\n{out}"))
            .rsplit_once(' ')
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(value("istio_tcp_connections_opened_total"), "1");
    assert_eq!(value("istio_tcp_connections_closed_total"), "0");
    assert_eq!(value("istio_tcp_sent_bytes_total"), "15");
    assert_eq!(value("istio_tcp_received_bytes_total"), "3");
    assert!(
        !out.contains("response_code="),
        "connections have no status"
    );
    meter.close(20, 3);
    let out = scraped(&registry);
    assert!(out.contains("istio_tcp_connections_closed_total"));
}

/// A number in thousandths as a bound's text would have it, compared the slow way.
fn slow_bucket(thousandths: u64) -> usize {
    let value = thousandths as f64 / 1000.0;
    let bounds = BOUNDS.iter().map(|bound| bound.parse::<f64>().unwrap());
    bounds.take_while(|bound| *bound < value).count()
}

proptest! {
    #[test]
    fn a_histogram_is_what_sorting_by_hand_gives(
        values in prop::collection::vec(prop_oneof![0u64..20_000, 0u64..5_000_000_000, Just(500u64), Just(1_000u64), Just(3_600_000_000u64)], 0..100)
    ) {
        let histogram = Histogram::default();
        let mut counts = vec![0u64; BOUNDS.len() + 1];
        for value in &values {
            histogram.observe(*value);
            counts[slow_bucket(*value)] += 1;
        }
        let (have, sum) = histogram.read();
        prop_assert_eq!(have.to_vec(), counts);
        prop_assert_eq!(sum, values.iter().sum::<u64>());
    }
}
