//! New endpoints that get their share by and by (`slow_start_config`), side by side.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Side};
use crate::limits::await_counter;
use crate::upstream::Upstream;

const CONFIG: &str = include_str!("slow_start.yaml");
/// Of a file's clusters, seconds.
const WINDOW: Duration = Duration::from_secs(8);
/// How old the first endpoint is when the second comes.
const HEAD_START: Duration = Duration::from_secs(3);
const REQUESTS: u32 = 60;

fn write(folder: &Path, name: &str, ports: &[u16]) {
    let endpoints: Vec<String> = ports
        .iter()
        .map(|port| {
            format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}")
        })
        .collect();
    let text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: endpoints\n  endpoints: [ {{ lb_endpoints: [ {} ] }} ]\n",
        endpoints.join(", ")
    );
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(format!("{name}.yaml"))).unwrap();
}

fn get(side: &Side, path: &str) {
    let mut stream = TcpStream::connect(side.address("main")).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "{}: {answer}",
        side.name
    );
}

/// The second endpoint's share of requests now.
fn share(side: &Side, path: &str, [first, second]: &[Upstream; 2]) -> f64 {
    let seen = |upstream: &Upstream| upstream.seen().len();
    let before = [seen(first), seen(second)];
    for _ in 0..REQUESTS {
        get(side, path);
    }
    let [old, new] = [seen(first) - before[0], seen(second) - before[1]];
    new as f64 / (old + new) as f64
}

fn check(side: &Side, upstreams: &[Upstream; 2], folder: &Path) {
    let ports = [upstreams[0].port, upstreams[1].port];
    std::thread::sleep(HEAD_START);
    write(folder, side.name, &ports);
    let joined = Instant::now();
    for cluster in ["in-turn", "least-busy"] {
        await_counter(side, &format!("cluster.{cluster}.membership_total"), 2);
    }
    for path in ["/in-turn", "/least-busy"] {
        let began = joined.elapsed();
        let have = share(side, path, upstreams);
        // By its age beside the other's; the machine may be busy.
        let most = joined.elapsed().as_secs_f64().max(1.0);
        let most = most / (2.0 * most + HEAD_START.as_secs_f64()) + 0.1;
        assert!(
            have <= most,
            "{}: {path}: {have} of at most {most} {began:?} after it joined",
            side.name
        );
    }
    std::thread::sleep((WINDOW + Duration::from_secs(1)).saturating_sub(joined.elapsed()));
    for path in ["/in-turn", "/least-busy"] {
        let have = share(side, path, upstreams);
        assert!(
            (0.25..=0.75).contains(&have),
            "{}: {path}: {have} in the end",
            side.name
        );
    }
}

#[test]
fn new_endpoints_get_their_share_by_and_by() {
    let folder = tempfile::tempdir().unwrap();
    let upstreams = [0, 1].map(|_| [Upstream::start("first"), Upstream::start("second")]);
    for (name, upstreams) in ["envoy", "malla"].into_iter().zip(&upstreams) {
        write(folder.path(), name, &[upstreams[0].port]);
    }
    let lab = Lab::start(CONFIG, &[("folder", folder.path().display().to_string())]);
    std::thread::scope(|scope| {
        for (side, upstreams) in [&lab.envoy, &lab.malla].into_iter().zip(&upstreams) {
            let folder = folder.path();
            scope.spawn(move || check(side, upstreams, folder));
        }
    });
}
