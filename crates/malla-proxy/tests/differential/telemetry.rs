//! Spans and log entries: both proxies send the same ones for the same requests, and tell upstreams the same.
//!
//! What may differ: ids, times, ports of clients, and counts of bytes on the wire, which Malla does not take.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use malla_xds_proto::core::Address;
use malla_xds_proto::core::address::Address as AnyAddress;
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::backend;
use crate::collector::{Collector, Seen, Span};
use crate::lab::{Lab, Side};
use crate::ports::free_port;
use crate::wire::{Answer, comparable, exchange};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// One request and how many spans it makes.
struct Case {
    listener: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    spans: usize,
}

const SAMPLED: (&str, &str) = (
    "traceparent",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
);
const UNSAMPLED: (&str, &str) = (
    "traceparent",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
);
const B3_TRACE: (&str, &str) = ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c");
const B3_SPAN: (&str, &str) = ("x-b3-spanid", "b7ad6b7169203331");
const B3_SINGLE: (&str, &str) = ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1");
const ID: &str = "7e9e1a00-1111-4222-8333-444444444444";
const ID_SAMPLED: &str = "7e9e1a00-1111-a222-8333-444444444444";

/// Adds a case: listener, path, headers, spans.
type Add<'a> =
    dyn FnMut(&'static str, &'static str, &'static [(&'static str, &'static str)], usize) + 'a;

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |listener, path, headers, spans| {
        out.push(Case {
            listener,
            path,
            headers,
            spans,
        });
    };
    any_tracer(&mut add);
    callers_with_traceparent(&mut add);
    callers_with_b3(&mut add);
    special_managers(&mut add);
    out
}

/// What is alike for all tracers.
fn any_tracer(add: &mut Add<'_>) {
    for listener in [
        "ingress",
        "egress",
        "zipkin-in",
        "zipkin-out",
        "zipkin-shared",
    ] {
        add(listener, "/", &[], 1);
        add(
            listener,
            "/a/path/that/is/longer/than/forty/characters?q=1",
            &[("user-agent", "curl")],
            1,
        );
        add(listener, "/status/500", &[], 1);
        add(listener, "/status/404", &[("x-client-trace-id", "mine")], 1);
        add(listener, "/direct", &[], 1);
        add(listener, "/dead", &[], 1);
        add(listener, "/nowhere", &[], 1);
        add(listener, "/silent/", &[], 1);
        add(listener, "/never/", &[], 0);
        add(listener, "/never/", &[("x-request-id", ID_SAMPLED)], 1);
        add(listener, "/", &[("x-request-id", ID)], 1);
        add(listener, "/", &[("x-request-id", "short")], 0);
        add(
            listener,
            "/",
            &[("x-envoy-decorator-operation", "named-by-caller")],
            1,
        );
        add(
            listener,
            "/",
            &[("x-envoy-downstream-service-cluster", "front")],
            1,
        );
        add(listener, "/retry/flaky/503/1/t", &[], 1);
    }
}

/// Contexts of OpenTelemetry.
fn callers_with_traceparent(add: &mut Add<'_>) {
    for listener in ["ingress", "egress"] {
        add(listener, "/", &[SAMPLED], 1);
        add(listener, "/", &[SAMPLED, ("tracestate", "a=1,b=2")], 1);
        add(listener, "/", &[UNSAMPLED], 0);
        add(listener, "/never/", &[SAMPLED], 0);
        add(listener, "/", &[("traceparent", "nonsense")], 0);
        add(
            listener,
            "/",
            &[(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            )],
            0,
        );
    }
}

/// Contexts of Zipkin.
fn callers_with_b3(add: &mut Add<'_>) {
    for listener in ["zipkin-in", "zipkin-out", "zipkin-shared"] {
        add(
            listener,
            "/",
            &[B3_TRACE, B3_SPAN, ("x-b3-sampled", "1")],
            1,
        );
        add(
            listener,
            "/",
            &[B3_TRACE, B3_SPAN, ("x-b3-sampled", "0")],
            0,
        );
        add(listener, "/", &[B3_TRACE, B3_SPAN], 1);
        add(
            listener,
            "/",
            &[B3_TRACE, B3_SPAN, ("x-b3-parentspanid", "00f067aa0ba902b7")],
            1,
        );
        add(listener, "/", &[B3_SINGLE], 1);
        add(listener, "/", &[("b3", "0")], 0);
        add(listener, "/never/", &[("x-b3-sampled", "1")], 0);
        add(
            listener,
            "/never/",
            &[B3_TRACE, B3_SPAN, ("x-b3-sampled", "1")],
            0,
        );
        add(listener, "/", &[("b3", "nonsense")], 0);
        add(
            listener,
            "/",
            &[("x-b3-traceid", "b7ad6b7169203331"), B3_SPAN],
            1,
        );
    }
}

/// Spans of tries, both kinds of contexts, and outsiders.
fn special_managers(add: &mut Add<'_>) {
    add("zipkin-w3c", "/", &[], 2);
    add("zipkin-w3c", "/", &[SAMPLED], 2);
    add(
        "zipkin-w3c",
        "/",
        &[B3_TRACE, B3_SPAN, ("x-b3-sampled", "0")],
        0,
    );
    add("spawn", "/", &[], 2);
    add("spawn", "/", &[SAMPLED], 2);
    add("spawn", "/status/500", &[], 2);
    add("spawn", "/direct", &[], 1);
    add("edge", "/", &[], 0);
    // Outsiders cannot ask for it by the request id, nor by force.
    add("edge", "/", &[("x-request-id", ID_SAMPLED)], 0);
    add("edge", "/", &[("x-envoy-force-trace", "1")], 0);
    add("edge", "/", &[("x-client-trace-id", "1")], 1);
    add("edge", "/", &[SAMPLED], 0);
}

const ZIPKIN: &str = "name: envoy.tracers.zipkin, typed_config: { \"@type\": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, \
    collector_cluster: zipkin, collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON";
const OTEL: &str = "name: envoy.tracers.opentelemetry, typed_config: { \"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, \
    service_name: web.shop, grpc_service: { envoy_grpc: { cluster_name: collector }, timeout: 0.5s }";

/// A listener with everything like the first, but its direction and tracing: Envoy's YAML cannot say so itself.
fn listener(name: &str, direction: &str, random: u32, provider: &str, more: &str) -> String {
    format!(
        "  - name: {name}
    traffic_direction: {direction}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {{port:{name}}} }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          internal_address_config: {{ cidr_ranges: [ {{ address_prefix: 10.0.0.0, prefix_len: 8 }} ] }}
          http_filters: *filters
          route_config: *routes
          access_log: *als
          tracing:
            random_sampling: {{ value: {random} }}
            max_path_tag_length: 40
            custom_tags: *tags
            provider: {{ {provider} }} }}
{more}"
    )
}

fn listeners() -> String {
    let zipkin = |more: &str| format!("{ZIPKIN}, {more}");
    let (inbound, outbound) = ("INBOUND", "OUTBOUND");
    let plain = zipkin("trace_id_128bit: true, shared_span_context: false");
    let w3c = zipkin(
        "trace_id_128bit: true, shared_span_context: false, trace_context_option: USE_B3_WITH_W3C_PROPAGATION",
    );
    let spawn = "            spawn_upstream_span: true\n";
    let edge = "          use_remote_address: true\n          preserve_external_request_id: true\n";
    [
        listener("egress", outbound, 100, OTEL, ""),
        listener("spawn", outbound, 100, OTEL, spawn),
        listener("edge", outbound, 0, OTEL, edge),
        listener("zipkin-in", inbound, 100, &plain, ""),
        listener("zipkin-out", outbound, 100, &plain, ""),
        listener(
            "zipkin-shared",
            inbound,
            100,
            &zipkin("shared_span_context: true"),
            "",
        ),
        listener("zipkin-w3c", inbound, 100, &w3c, spawn),
    ]
    .concat()
}

fn lab() -> (Lab, Collector) {
    let (collector, grpc, zipkin) = Collector::start();
    let lab = Lab::start(
        &include_str!("telemetry.yaml").replace("{listeners}", &listeners()),
        &[
            ("backend", backend::start().port().to_string()),
            ("dead", free_port().to_string()),
            ("collector", grpc.port().to_string()),
            ("zipkin", zipkin.port().to_string()),
        ],
    );
    (lab, collector)
}

fn ask(side: &Side, case: &Case, number: usize) -> Answer {
    let mut request = format!(
        "GET {} HTTP/1.1\r\nhost: web.shop\r\nx-proxy: {}\r\nx-twice: 1\r\nx-twice: 2\r\nx-number: {number}\r\n",
        case.path, side.name
    );
    for (name, value) in case.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    // The number tells spans apart, and retried requests.
    exchange(side.address(case.listener), &format!("{request}\r\n"))
}

/// Ids by what they stand for.
fn label(id: &str) -> String {
    match id {
        "" => "-".into(),
        TRACE | CALLER => id.to_owned(),
        _ if TRACE.ends_with(id) => id.to_owned(),
        _ => format!("<{} digits>", id.len()),
    }
}

/// An answer of the echo, ids masked.
fn told(answer: &Answer) -> String {
    let hex = regex::Regex::new(r"\b([0-9a-f]{32}|[0-9a-f]{16})\b").unwrap();
    let text = crate::lab::show(&comparable(answer.clone()));
    hex.replace_all(&text, |found: &regex::Captures<'_>| label(&found[1]))
        .into_owned()
}

/// A span without what is by chance.
fn shown(span: &Span, all: &[Span]) -> String {
    let parent = match all.iter().position(|other| other.id == span.parent) {
        Some(_) if !span.parent.is_empty() => "<other span>".to_owned(),
        _ => label(&span.parent),
    };
    let mut out = format!(
        "{} {:?} trace={} id={} parent={parent} {}\n",
        span.kind,
        span.name,
        label(&span.trace),
        label(&span.id),
        span.more
    );
    for (name, value) in &span.tags {
        let value = match name.as_str() {
            "x-proxy" => "<proxy>".into(),
            "guid:x-request-id" => crate::wire::mask(value),
            _ => value.clone(),
        };
        out.push_str(&format!("  {name}: {value}\n"));
    }
    out
}

/// Spans in the order they depend on each other.
fn all_shown(mut spans: Vec<Span>) -> String {
    let ids: Vec<String> = spans.iter().map(|span| span.id.clone()).collect();
    spans.sort_by_key(|span| {
        (
            ids.contains(&span.parent),
            span.tags.get("retry_count").cloned(),
        )
    });
    let all = spans.clone();
    spans.iter().map(|span| shown(span, &all)).collect()
}

/// The spans of each case, once all are there.
fn spans_of(collector: &Collector, side: &Side, cases: &[Case]) -> Vec<Vec<Span>> {
    let of = |seen: &Seen, number: usize| -> Vec<Span> {
        let number = number.to_string();
        let is_of = |span: &&Span| {
            let tag = |name: &str| span.tags.get(name).map(String::as_str);
            tag("x-proxy") == Some(side.name) && tag("x-number") == Some(&number)
        };
        seen.spans.iter().filter(is_of).cloned().collect()
    };
    let all = |seen: &Seen| -> Vec<Vec<Span>> {
        (0..cases.len()).map(|number| of(seen, number)).collect()
    };
    let lacks = |seen: &Seen| {
        let pairs = all(seen).into_iter().zip(cases).enumerate();
        let lacking = pairs.filter(|(_, (have, case))| have.len() < case.spans);
        lacking
            .map(|(number, (have, case))| {
                format!(
                    "{number} {} {} {:?}: {}",
                    case.listener,
                    case.path,
                    case.headers,
                    have.len()
                )
            })
            .collect::<Vec<_>>()
    };
    collector.wait_or_tell(
        &|seen| format!("{}: {:#?}", side.name, lacks(seen)),
        |seen| lacks(seen).is_empty().then(|| all(seen)),
    )
}

#[test]
fn spans_and_what_upstreams_are_told() {
    let (lab, collector) = lab();
    let cases = cases();
    let sides = [&lab.envoy, &lab.malla].map(|side| {
        let answers: Vec<String> = cases
            .iter()
            .enumerate()
            .map(|(number, case)| told(&ask(side, case, number)))
            .collect();
        let spans = spans_of(&collector, side, &cases);
        let shown = answers.iter().zip(spans);
        shown
            .map(|(answer, spans)| format!("{answer}\n{}", all_shown(spans)))
            .collect::<Vec<_>>()
    });
    let pairs = cases.iter().zip(&sides[0]).zip(&sides[1]);
    let failures: Vec<String> = pairs
        .filter(|((_, envoy), malla)| envoy != malla)
        .map(|((case, envoy), malla)| {
            format!(
                "{} {} {:?}\n{}",
                case.listener,
                case.path,
                case.headers,
                differing(envoy, malla)
            )
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} differences\n{}",
        failures.len(),
        failures.join("\n=====\n")
    );
}

/// The lines that one text has and the other lacks.
fn differing(envoy: &str, malla: &str) -> String {
    let only = |left: &str, right: &str, sign: &str| -> Vec<String> {
        let right: Vec<&str> = right.lines().collect();
        let lines = left.lines().filter(|line| !right.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    [only(envoy, malla, "envoy"), only(malla, envoy, "malla")]
        .concat()
        .join("\n")
}

/// An entry without what is by chance.
fn comparable_common(common: &mut AccessLogCommon) {
    let has = |time: &mut Option<malla_xds_proto::pb::google::protobuf::Duration>| {
        if let Some(time) = time {
            assert!(time.seconds < 60 && time.seconds >= 0 && time.nanos >= 0);
            *time = malla_xds_proto::pb::google::protobuf::Duration::default();
        }
    };
    assert!(common.start_time.take().unwrap().seconds > 1_600_000_000);
    has(&mut common.time_to_last_rx_byte);
    has(&mut common.time_to_first_upstream_tx_byte);
    has(&mut common.time_to_last_upstream_tx_byte);
    has(&mut common.time_to_first_upstream_rx_byte);
    has(&mut common.time_to_last_upstream_rx_byte);
    has(&mut common.time_to_first_downstream_tx_byte);
    has(&mut common.time_to_last_downstream_tx_byte);
    has(&mut common.duration);
    for address in [
        &mut common.downstream_remote_address,
        &mut common.downstream_local_address,
        &mut common.upstream_local_address,
        &mut common.downstream_direct_remote_address,
    ] {
        forget_port(address);
    }
    common.downstream_wire_bytes_received = 0;
    common.downstream_wire_bytes_sent = 0;
    common.upstream_wire_bytes_received = 0;
    common.upstream_wire_bytes_sent = 0;
    common.stream_id = crate::wire::mask(&common.stream_id);
    common.custom_tags.remove("x-proxy");
    common.custom_tags.remove("x-number");
}

fn forget_port(address: &mut Option<Address>) {
    if let Some(Address {
        address: Some(AnyAddress::SocketAddress(socket)),
    }) = address
    {
        assert!(matches!(
            socket.port_specifier,
            Some(PortSpecifier::PortValue(1..))
        ));
        socket.port_specifier = None;
    }
}

fn comparable_entry(mut entry: HttpAccessLogEntry, name: &str, case: &Case) -> String {
    comparable_common(entry.common_properties.as_mut().unwrap());
    let request = entry.request.as_mut().unwrap();
    request.request_id = crate::wire::mask(&request.request_id);
    request.upstream_header_bytes_sent = 0;
    request.downstream_header_bytes_received = 0;
    let response = entry.response.as_mut().unwrap();
    let time = response
        .response_headers
        .remove("x-envoy-upstream-service-time");
    response.response_headers_bytes -= time.map_or(0, |time| time.len() as u64);
    if case.path == "/nowhere" && name == "malla" {
        // Envoy does not count what its codec adds.
        response.response_headers_bytes -= "content-length0".len() as u64;
    }
    response.upstream_header_bytes_received = 0;
    response.downstream_header_bytes_sent = 0;
    // As JSON, for its maps are sorted.
    let common = entry.common_properties.as_ref().unwrap();
    let tags: BTreeMap<_, _> = common.custom_tags.clone().into_iter().collect();
    let headers: BTreeMap<_, _> = request.request_headers.drain().collect();
    entry
        .common_properties
        .as_mut()
        .unwrap()
        .custom_tags
        .clear();
    format!("{entry:#?}\n{tags:?}\n{headers:?}").replace(&format!("{name:?}"), "<proxy>")
}

#[test]
fn log_entries_are_alike() {
    let (lab, collector) = lab();
    let mut failures = Vec::new();
    for (number, case) in cases()
        .iter()
        .filter(|case| case.listener == "ingress")
        .enumerate()
    {
        let mut shown = Vec::new();
        for side in [&lab.envoy, &lab.malla] {
            ask(side, case, number);
            let entry = collector.wait(&format!("{} entry of {}", case.path, side.name), |seen| {
                let mut of_side = seen.http.iter().filter(|(_, entry)| {
                    let headers = &entry.request.as_ref().unwrap().request_headers;
                    headers.get("x-proxy").is_some_and(|name| name == side.name)
                });
                of_side.nth(number).cloned()
            });
            assert_eq!(entry.0, "shop");
            shown.push(comparable_entry(entry.1, side.name, case));
        }
        if shown[0] != shown[1] {
            let differ = differing(&shown[0], &shown[1]);
            failures.push(format!("{} {:?}\n{differ}", case.path, case.headers));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differences\n{}",
        failures.len(),
        failures.join("\n=====\n")
    );
    collector.wait("both nodes", |seen| {
        let own = seen
            .nodes
            .iter()
            .filter(|node| *node == "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local");
        (own.count() >= 2).then_some(())
    });
}

#[test]
fn connections_leave_entries_too() {
    let (lab, collector) = lab();
    for side in [&lab.envoy, &lab.malla] {
        let mut stream = TcpStream::connect(side.address("tcp")).unwrap();
        stream
            .write_all(b"GET /status/200 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let log = format!("tcp-{}", side.name);
        let port = stream.local_addr().unwrap().port();
        drop(stream);
        let mut entry = collector.wait(&log, |seen| {
            seen.tcp.iter().find_map(|(name, entry)| {
                let common = entry.common_properties.as_ref()?;
                let from = common.downstream_remote_address.as_ref()?;
                let Some(AnyAddress::SocketAddress(from)) = &from.address else {
                    return None;
                };
                (*name == log && from.port_specifier == Some(PortSpecifier::PortValue(port.into())))
                    .then(|| entry.clone())
            })
        });
        let bytes = entry.connection_properties.unwrap();
        assert_eq!(
            (bytes.received_bytes, bytes.sent_bytes),
            (56, answer.len() as u64),
            "{}",
            side.name
        );
        let common = entry.common_properties.as_mut().unwrap();
        comparable_common(common);
        assert_eq!(common.upstream_cluster, "backend");
        assert_eq!(common.access_log_type, 3, "{}", side.name);
    }
}

/// A record without what is by chance; the proxy's own name is masked.
fn comparable_record(resource: &Resource, mut record: LogRecord, name: &str) -> String {
    assert!(record.time_unix_nano > 1_600_000_000_000_000_000);
    record.time_unix_nano = 0;
    record.observed_time_unix_nano = 0;
    let lengths = (record.trace_id.len(), record.span_id.len());
    record.trace_id.clear();
    record.span_id.clear();
    // Envoy keeps tags in a hash table.
    record.attributes.sort_by(|a, b| a.key.cmp(&b.key));
    format!("{resource:#?}\n{record:#?}\nids of {lengths:?}").replace(name, "<proxy>")
}

#[test]
fn log_records_are_alike() {
    let (lab, collector) = lab();
    let cases: [(&str, &[(&str, &str)]); 5] = [
        ("/", &[]),
        ("/status/404", &[("user-agent", "curl")]),
        ("/direct", &[]),
        ("/dead", &[SAMPLED]),
        ("/", &[("x-older", "1"), UNSAMPLED]),
    ];
    let mut so_far = 0;
    for (path, headers) in cases {
        let case = Case {
            listener: "otlp",
            path,
            headers,
            spans: 0,
        };
        let wanted = 1 + usize::from(headers.iter().any(|(name, _)| *name == "x-older"));
        let [envoy, malla] = [&lab.envoy, &lab.malla].map(|side| {
            ask(side, &case, 0);
            let own = |(resource, record): &(Resource, LogRecord)| {
                let text = comparable_record(resource, record.clone(), side.name);
                text.contains("<proxy>").then_some(text)
            };
            let mut told = collector.wait(&format!("{path} of {}", side.name), |seen| {
                let all: Vec<String> = seen.records.iter().filter_map(own).collect();
                let new = all.get(so_far..).unwrap_or_default();
                (new.len() >= wanted).then(|| new.to_vec())
            });
            told.sort_unstable();
            told.join("\n")
        });
        let differ = differing(&envoy, &malla);
        assert!(malla == envoy, "{path} {headers:?}\n{differ}");
        so_far += wanted;
    }
}
