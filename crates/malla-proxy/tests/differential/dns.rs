//! Names of clusters, side by side: a name server whose answers change, and the endpoints that come of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};

use crate::lab::{Lab, Side};
use crate::wire::exchange;

const PATIENCE: Duration = Duration::from_secs(15);

/// What the name server says of `web.test`, one after another, and the last parts of the addresses that clusters have
/// then: of STRICT_DNS, and of LOGICAL_DNS.
const PHASES: &[(Says, &[u8], &[u8])] = &[
    (Says::Has(&[1, 2]), &[1, 2], &[1]),
    (Says::Has(&[3, 2]), &[2, 3], &[3]),
    (Says::Broken, &[2, 3], &[3]),
    (Says::Has(&[4, 4, 5]), &[4, 5], &[4]),
    (Says::Nothing, &[], &[4]),
    (Says::Has(&[6]), &[6], &[6]),
    (Says::NoSuchName, &[], &[6]),
    (Says::Has(&[7]), &[7], &[7]),
    (Says::Silent, &[7], &[7]),
];

#[derive(Clone, Copy)]
enum Says {
    Has(&'static [u8]),
    /// The name is there, but has no such addresses.
    Nothing,
    NoSuchName,
    /// SERVFAIL.
    Broken,
    Silent,
}

#[derive(Clone, Default)]
struct Server {
    phase: Arc<AtomicUsize>,
    /// Questions for the name that is only answered over TCP, by way.
    by_udp: Arc<AtomicUsize>,
    by_tcp: Arc<AtomicUsize>,
}

impl Server {
    /// Listens on UDP and TCP; returns the port.
    fn start(&self) -> u16 {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        let own = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                if let Some(answer) = own.answer(&buffer[..length], false) {
                    let _ = udp.send_to(&answer, peer);
                }
            }
        });
        let own = self.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                        let Ok(()) = stream.read_exact(&mut query) else {
                            return;
                        };
                        let Some(answer) = own.answer(&query, true) else {
                            continue;
                        };
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        let _ = stream.write_all(&[&length, &answer[..]].concat());
                    }
                });
            }
        });
        port
    }

    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let question = query.queries.first()?.clone();
        let name = question.name().clone();
        let mut says = match name.to_string().as_str() {
            "web.test." => PHASES[self.phase.load(Ordering::SeqCst)].0,
            "fixed.test." => Says::Has(&[20]),
            "long.test." => Says::Has(&[21]),
            "by-tcp.test." => Says::Has(&[22]),
            _ => Says::NoSuchName,
        };
        let mut reply = Message::new(
            query.metadata.id,
            MessageType::Response,
            query.metadata.op_code,
        );
        match name.to_string().as_str() {
            "long.test." if !tcp => {
                reply.metadata.truncation = true;
                says = Says::Nothing;
            }
            "by-tcp.test." if tcp => drop(self.by_tcp.fetch_add(1, Ordering::SeqCst)),
            "by-tcp.test." => drop(self.by_udp.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        match says {
            Says::Silent => return None,
            Says::Broken => reply.metadata.response_code = ResponseCode::ServFail,
            Says::NoSuchName => reply.metadata.response_code = ResponseCode::NXDomain,
            Says::Nothing => {}
            Says::Has(last) => {
                for last in last
                    .iter()
                    .filter(|_| question.query_type() == RecordType::A)
                {
                    let address = RData::A(A(Ipv4Addr::new(127, 0, 0, *last)));
                    reply.add_answer(Record::from_rdata(name.clone(), 1, address));
                }
            }
        }
        reply.add_query(question);
        reply.to_vec().ok()
    }
}

/// Cluster, its type and name, and what else it says.
const CLUSTERS: &[(&str, &str, &str, &str)] = &[
    ("strict", "STRICT_DNS", "web.test", "dns_refresh_rate: 0.1s"),
    (
        "logical",
        "LOGICAL_DNS",
        "web.test",
        "dns_refresh_rate: 0.1s",
    ),
    (
        "by_ttl",
        "STRICT_DNS",
        "web.test",
        "dns_refresh_rate: 600s, respect_dns_ttl: true, dns_failure_refresh_rate: { base_interval: 0.1s, max_interval: 0.2s }",
    ),
    (
        "jittered",
        "STRICT_DNS",
        "web.test",
        "dns_refresh_rate: 0.05s, dns_jitter: 0.1s",
    ),
    ("long", "STRICT_DNS", "long.test", "dns_refresh_rate: 1s"),
    (
        "unknown",
        "STRICT_DNS",
        "other.test",
        "dns_refresh_rate: 1s",
    ),
];

fn start(port: u16) -> Lab {
    let resolver = |options: &str| {
        format!(
            "typed_dns_resolver_config: {{ name: cares, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [ {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} ], query_timeout_seconds: 1, query_tries: 1{options} }} }}"
        )
    };
    let cluster = |name: &str, kind: &str, host: &str, more: &str| {
        format!(
            "  - {{ name: {name}, {kind}, dns_lookup_family: V4_ONLY, {more}, load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: 80 }} }} }} }} ] }} ] }} }}\n"
        )
    };
    let plain = resolver("");
    let mut clusters = String::new();
    for (name, kind, host, more) in CLUSTERS {
        let kind = format!("type: {kind}");
        clusters += &cluster(name, &kind, host, &format!("{more}, {plain}"));
    }
    let unsearched = resolver(
        ", dns_resolver_options: { no_default_search_domain: true, use_tcp_for_dns_lookups: true }",
    );
    clusters += &cluster("by_tcp", "type: STRICT_DNS", "by-tcp.test", &unsearched);
    let old = format!(
        "dns_resolvers: [ {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} ]"
    );
    clusters += &cluster("old", "type: STRICT_DNS", "fixed.test", &old);
    let old = format!(
        "dns_resolution_config: {{ resolvers: [ {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} ] }}"
    );
    clusters += &cluster("older", "type: STRICT_DNS", "fixed.test", &old);
    let typed = format!(
        "cluster_type: {{ name: dns, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, dns_lookup_family: V4_ONLY, dns_refresh_rate: 0.1s, {plain} }} }}"
    );
    clusters += &cluster("typed", &typed, "web.test", "connect_timeout: 1s")
        .replace(" dns_lookup_family: V4_ONLY, connect", " connect");
    clusters += "  - { name: two, type: STRICT_DNS, dns_lookup_family: V4_ONLY, dns_refresh_rate: 0.1s, {plain}, load_assignment: { cluster_name: two, endpoints: [ { priority: 0, lb_endpoints: [ { endpoint: { address: { socket_address: { address: web.test, port_value: 80 } } } } ] }, { priority: 1, lb_endpoints: [ { endpoint: { address: { socket_address: { address: fixed.test, port_value: 81 } } } } ] } ] } }\n";
    let template = format!(
        "
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {{port:admin}} }} }} }}
static_resources:
  clusters:
{}",
        clusters.replace("{plain}", &plain)
    );
    Lab::start(&template, &[])
}

/// The addresses of each cluster.
fn hosts(side: &Side) -> BTreeMap<String, BTreeSet<String>> {
    let answer = exchange(
        side.address("admin"),
        "GET /clusters HTTP/1.1\r\nhost: admin\r\n\r\n",
    );
    let mut out = BTreeMap::<String, BTreeSet<String>>::new();
    for line in answer.body.lines() {
        let mut parts = line.split("::");
        let (Some(cluster), Some(address)) = (parts.next(), parts.next()) else {
            continue;
        };
        let known = out.entry(cluster.to_owned()).or_default();
        if address.starts_with("127.") {
            known.insert(address.to_owned());
        }
    }
    out
}

#[test]
fn names_become_the_same_endpoints() {
    let server = Server::default();
    let lab = start(server.start());
    for (phase, (_, strict, logical)) in PHASES.iter().enumerate() {
        server.phase.store(phase, Ordering::SeqCst);
        let set = |last: &[u8], port| -> BTreeSet<String> {
            last.iter()
                .map(|last| format!("127.0.0.{last}:{port}"))
                .collect()
        };
        let strict = set(strict, 80);
        let mut want = BTreeMap::new();
        for cluster in ["strict", "jittered", "typed"] {
            want.insert(cluster, strict.clone());
        }
        if phase < 4 {
            // An answer without addresses has no TTL.
            want.insert("by_ttl", strict.clone());
        }
        want.insert("logical", set(logical, 80));
        want.insert("two", &strict | &set(&[20], 81));
        want.insert("long", set(&[21], 80));
        want.insert("by_tcp", set(&[22], 80));
        want.insert("old", set(&[20], 80));
        want.insert("older", set(&[20], 80));
        want.insert("unknown", BTreeSet::new());
        // Where nothing is to change, it gets the time to.
        std::thread::sleep(Duration::from_millis(300));
        for side in [&lab.envoy, &lab.malla] {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let have = hosts(side);
                let wrong: Vec<String> = want
                    .iter()
                    .filter(|(cluster, want)| have.get(**cluster) != Some(want))
                    .map(|(cluster, want)| {
                        format!("{cluster}: {:?}, wanted {want:?}", have.get(*cluster))
                    })
                    .collect();
                if wrong.is_empty() {
                    break;
                }
                let late = Instant::now() > deadline;
                assert!(!late, "{}, phase {phase}: {wrong:#?}", side.name);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    assert_eq!(server.by_udp.load(Ordering::SeqCst), 0);
    assert!(
        server.by_tcp.load(Ordering::SeqCst) >= 2,
        "both asked over TCP"
    );
    for counter in ["attempt", "success", "failure", "no_rebuild"] {
        for side in [&lab.envoy, &lab.malla] {
            let request = format!(
                "GET /stats?filter=cluster.strict.update_{counter} HTTP/1.1\r\nhost: admin\r\n\r\n"
            );
            let answer = exchange(side.address("admin"), &request);
            let count = answer.body.trim().rsplit(' ').next().map(str::to_owned);
            let count: u64 = count.unwrap_or_default().parse().unwrap_or_default();
            assert!(count > 0, "{}: {}", side.name, answer.body);
        }
    }
}
