//! A demo, a steady number of visits, and what the console's API makes of them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics and tells how far it got"
)]

mod api;
mod outage;
mod peers;

use std::path::Path;
use std::time::{Duration, Instant};

use malla_testkit::{Demo, eventually};
use serde_json::{Value, json};

use api::Api;

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(90);
/// Visits a second.
const RATE: u32 = 40;
/// Seconds that rates are compared over.
const WINDOW: u64 = 40;
/// How much of a count may be missing from a rate.
const TOLERANCE: f64 = 0.02;

type Check = fn(&Demo, &Api);

/// Runs everything on one demo.
pub(crate) fn run(name: &str, arguments: &[&str]) {
    let demo = Demo::start(Path::new(env!("CARGO_BIN_EXE_malla")), name, arguments);
    let api = Api::new(demo.ready["console"].as_str().unwrap());
    let checks: [(&str, Check); 9] = [
        ("every target is scraped", every_target_is_scraped),
        ("proxies are in sync", proxies_are_in_sync),
        ("the graph agrees with the visitors", the_graph_agrees),
        ("Prometheus has the same numbers", peers::prometheus_agrees),
        ("Python's spans are shown", peers::pythons_spans_are_shown),
        ("Zipkin's spans are shown", peers::zipkins_spans_are_shown),
        (
            "without the control plane it goes on",
            outage::without_the_control_plane_it_goes_on,
        ),
        ("a console that died goes on", a_console_that_died_goes_on),
        (
            "an order is followed through its spans",
            an_order_is_followed,
        ),
    ];
    for (what, check) in checks {
        let started = Instant::now();
        check(&demo, &api);
        let took = started.elapsed().as_secs_f64();
        println!("{name}: {what}: ok ({took:.1} s)");
    }
    demo.stop();
}

fn every_target_is_scraped(demo: &Demo, api: &Api) {
    let pods = demo.kubectl_json(&["get", "pods", "-A"]);
    let asking = |pod: &&Value| {
        let annotations = &pod["metadata"]["annotations"];
        annotations["prometheus.io/scrape"] == "true"
    };
    let wanted = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(asking)
        .count();
    assert!(
        wanted >= 10,
        "eight of the shop, the gateway, the control plane"
    );
    eventually("all targets are up", SOON, || {
        let targets = api.get("/api/v1/targets")?;
        let targets = targets["data"]["activeTargets"].as_array().unwrap();
        let up = targets
            .iter()
            .filter(|target| target["health"] == "up")
            .count();
        if (up, targets.len()) == (wanted, wanted) {
            return Ok(());
        }
        Err(format!("{up} of {wanted} are up: {targets:?}"))
    });
    let version = api.value("count(istio_build{component=\"proxy\"})");
    let counted = version.unwrap_or_default();
    println!("  {wanted} targets, {counted} of them tell the proxy's version");
}

fn proxies_are_in_sync(_: &Demo, api: &Api) {
    eventually("proxies are in sync", SOON, || {
        let overview = api.get("/api/malla/v1/overview")?;
        let proxies = &overview["proxies"];
        let identities = api.get("/api/malla/v1/security")?["identities"].clone();
        let known = identities.as_array().map_or(0, Vec::len);
        if proxies["synced"] == proxies["total"] && known >= 9 && proxies["total"] == known {
            return Ok(());
        }
        Err(format!("{proxies}, {known} certificates"))
    });
}

/// The visitors' own count, by `kubectl exec`.
fn visits(demo: &Demo) -> f64 {
    let words = ["-n", "visitors", "exec", "deploy/visitors", "--"];
    let curl = ["curl", "-s", "http://localhost:7000/count"];
    let said = demo.kubectl_ok(&[words.as_slice(), &curl].concat());
    let count: Value = serde_json::from_str(&said).unwrap();
    count["sent"].as_f64().unwrap()
}

fn the_graph_agrees(demo: &Demo, api: &Api) {
    let rate = format!("VISITS_PER_SECOND={RATE}");
    drop(demo.kubectl_ok(&["-n", "visitors", "set", "env", "deployment/visitors", &rate]));
    drop(demo.kubectl_ok(&[
        "-n",
        "visitors",
        "rollout",
        "status",
        "deployment/visitors",
        "--timeout=60s",
    ]));
    // The old pod's last visits leave the window.
    std::thread::sleep(Duration::from_secs(15));
    let (started, before) = (Instant::now(), visits(demo));
    std::thread::sleep(Duration::from_secs(WINDOW));
    let (took, after) = (started.elapsed().as_secs_f64(), visits(demo));
    let measured = (after - before) / took;
    assert!(
        measured > f64::from(RATE) * 0.8,
        "the visitors are too slow: {measured}/s"
    );
    // A tenth of the visits each: see the visitors' round.
    let expected = [
        (
            "gateway/istio-system/istio-ingressgateway",
            "service/base/frontend",
            1.0,
        ),
        ("service/base/frontend", "service/base/product", 0.3),
        ("service/base/frontend", "service/base/user", 0.2),
        ("service/base/frontend", "service/base/order", 0.2),
        ("service/base/order", "service/base/stock", 0.2),
    ];
    eventually("the graph agrees", Duration::from_secs(30), || {
        let graph = api.get(&format!("/api/malla/v1/graph?window={WINDOW}"))?;
        for (source, target, part) in expected {
            let edge = api::edge(&graph, source, target)?;
            let rate = edge["rps"].as_f64().unwrap_or_default();
            let wanted = measured * part;
            if (rate - wanted).abs() > wanted * TOLERANCE {
                return Err(format!("{source} to {target}: {rate} instead of {wanted}"));
            }
            if edge["mtls"] != 1.0 {
                return Err(format!(
                    "{source} to {target} is not under mutual TLS: {edge}"
                ));
            }
        }
        Ok(())
    });
}

/// The six spans of one order: the gateway's, and both ends of each of the calls behind it.
fn an_order_is_followed(_: &Demo, api: &Api) {
    eventually("an order has its spans", SOON, || {
        let path = "/jaeger/api/traces?service=istio-ingressgateway.istio-system&limit=100";
        let found = api.get(path)?;
        let traces = found["data"].as_array().cloned().unwrap_or_default();
        let orders = traces.iter().filter(|trace| {
            let text = trace.to_string();
            text.contains("/order")
        });
        let spans: Vec<usize> = orders
            .map(|trace| trace["spans"].as_array().map_or(0, Vec::len))
            .collect();
        if spans.contains(&6) {
            return Ok(());
        }
        Err(format!(
            "{} traces; spans of orders: {spans:?}",
            traces.len()
        ))
    });
}

/// What `kubectl -n` prints for some words, the first of which is the namespace.
fn kubectl(demo: &Demo, words: &str) -> String {
    let words: Vec<&str> = std::iter::once("-n").chain(words.split(' ')).collect();
    demo.kubectl_ok(&words)
}

/// Applies objects through a file, as users do.
fn apply(demo: &Demo, name: &str, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let path = std::env::temp_dir().join(format!("{name}-{}.json", demo.pid()));
    std::fs::write(&path, list.to_string()).unwrap();
    drop(demo.kubectl_ok(&["apply", "-f", path.to_str().unwrap()]));
    std::fs::remove_file(&path).unwrap();
}

/// Kills a process of a pod, as a fault would.
fn kill(demo: &Demo, app: &str, container: &str) {
    let app = format!("app={app}");
    let name = "jsonpath={.items[0].metadata.name}";
    let pods = ["-n", "istio-system", "get", "pods", "-l", &app, "-o", name];
    let key = format!("istio-system/{}/{container}", demo.kubectl_ok(&pods));
    let pid = demo.ready["pids"][&key].as_i64().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Everything acknowledged, Zipkin's span above too, is there after the console's process was killed.
fn a_console_that_died_goes_on(demo: &Demo, api: &Api) {
    let before = api
        .value("count_over_time(malla_telemetry_series[1h])")
        .unwrap();
    kill(demo, "malla-console", "console");
    eventually("the console is back", SOON, || {
        let status = api.get("/api/malla/v1/telemetry/status")?;
        if status["state"] == "open" {
            return Ok(());
        }
        Err(status.to_string())
    });
    let after = api
        .value("count_over_time(malla_telemetry_series[1h])")
        .unwrap();
    assert!(after >= before, "samples were lost: {after} of {before}");
    let found = api.get("/jaeger/api/traces/ab").unwrap();
    assert_eq!(found["data"][0]["spans"].as_array().map(Vec::len), Some(1));
}
