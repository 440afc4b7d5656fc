//! A control plane killed with SIGKILL: traffic notices neither that it is away nor that it comes back.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use malla_testkit::{Demo, Request, eventually};
use serde_json::{Value, json};

use super::api::Api;
use super::{LONG, SOON, apply, kill, kubectl, proxies_are_in_sync};

/// More than a proxy has workers, so that each of them accepts one.
const NEW_CONNECTIONS: usize = 16;
/// Asks the visitors what became of their visits.
const COUNT: &str = "-n visitors exec deploy/visitors -- curl -s http://localhost:7000/count";
/// Answered by the gateway itself.
const NEW_HOST: &str = "after-the-outage.test";

/// One connection to the gateway, kept open all the time.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn open(demo: &Demo) -> Self {
        let shop = demo.shop();
        let stream = TcpStream::connect(shop.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(BufReader::new(stream))
    }

    fn get(&mut self, host: &str, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut head).unwrap();
            assert!(read > 0, "the kept connection was closed after {head:?}");
        }
        let head = head.to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        assert_eq!(field("connection: close"), None, "it is drained: {head}");
        if let Some(length) = field("content-length:") {
            self.skip(length.trim().parse().unwrap());
        } else {
            assert!(field("transfer-encoding: chunked").is_some(), "{head}");
            while self.chunk() {}
        }
        let status = head.split(' ').nth(1).unwrap_or_default();
        status.parse().unwrap()
    }

    fn skip(&mut self, bytes: usize) {
        self.0.read_exact(&mut vec![0; bytes]).unwrap();
    }

    /// Reads one; the last is an empty one.
    fn chunk(&mut self) -> bool {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        self.skip(length + "\r\n".len());
        length > 0
    }
}

pub(super) fn without_the_control_plane_it_goes_on(demo: &Demo, api: &Api) {
    start_visitors(demo);
    let targets = targets(api).unwrap();
    let mut kept = Kept::open(demo);
    assert_eq!(kept.get("shop", "/product"), 200);
    let (visits, churn) = (visits(demo), churn(demo));

    kill(demo, "istiod", "discovery");
    stay_away(demo);
    assert_eq!(kept.get("shop", "/product"), 200);
    for _ in 0..NEW_CONNECTIONS {
        let answer = Request::get(&format!("{}/product", demo.shop())).send();
        answer.unwrap().expect(200).unwrap();
    }
    visited_since(demo, &visits, 100);
    let scraped = self::targets(api).unwrap();
    assert!(scraped + 1 >= targets, "all but itself are scraped on");
    let services = api.get("/api/malla/v1/services").unwrap();
    assert_eq!(services.as_array().map(Vec::is_empty), Some(false));

    come_back(demo);
    proxies_are_in_sync(demo, api);
    eventually("it is scraped again", SOON, || match self::targets(api)? {
        now if now == targets => Ok(()),
        now => Err(format!("{now} of {targets} targets")),
    });
    visited_since(demo, &visits, 200);
    assert_eq!(self::churn(demo), churn, "nothing was changed or drained");
    assert_eq!(kept.get(NEW_HOST, "/"), 200, "any host is the shop's");
    change(demo);
    eventually("a change arrives", SOON, || match kept.get(NEW_HOST, "/") {
        418 => Ok(()),
        status => Err(format!("still {status}")),
    });
    assert_eq!(kept.get("shop", "/product"), 200);
    drop(kubectl(demo, "base delete virtualservice after-the-outage"));
    drop(kubectl(
        demo,
        "visitors scale deployment/visitors --replicas=0",
    ));
}

/// Steady visits, for which nothing may fail.
fn start_visitors(demo: &Demo) {
    drop(kubectl(
        demo,
        "visitors scale deployment/visitors --replicas=1",
    ));
    eventually("visitors are answered", LONG, || {
        let said = demo.kubectl(&COUNT.split(' ').collect::<Vec<_>>());
        let count: Value =
            serde_json::from_slice(&said.stdout).map_err(|error| error.to_string())?;
        match count["answered"]["200"].as_u64() {
            Some(20..) => Ok(()),
            _ => Err(count.to_string()),
        }
    });
}

/// How many visits have got which status so far; 0 is no answer.
fn visits(demo: &Demo) -> BTreeMap<String, u64> {
    let said = demo.kubectl_ok(&COUNT.split(' ').collect::<Vec<_>>());
    let count: Value = serde_json::from_str(&said).unwrap();
    serde_json::from_value(count["answered"].clone()).unwrap()
}

/// Waits for so many more visits than `before`, all answered as they should be.
fn visited_since(demo: &Demo, before: &BTreeMap<String, u64>, more: u64) {
    eventually("visits go on", LONG, || {
        let now = visits(demo);
        let others = |count: &BTreeMap<String, u64>| {
            let mut count = count.clone();
            count.remove("200");
            count
        };
        assert_eq!(others(&now), others(before), "a visit failed");
        match now["200"] - before["200"] {
            made if made >= more => Ok(()),
            made => Err(format!("{made} visits")),
        }
    });
}

fn targets(api: &Api) -> Result<usize, String> {
    let targets = api.get("/api/v1/targets")?;
    let active = targets["data"]["activeTargets"].as_array();
    Ok(active.map_or(0, Vec::len))
}

/// What counts changes of listeners and clusters, and connections made to end, of a sidecar and of the gateway.
fn churn(demo: &Demo) -> BTreeMap<String, String> {
    let filter = "listener_(added|modified|removed|in_place_updated)|total_listeners_draining\
        |cluster_(added|modified|removed)|downstream_cx_drain_close";
    let mut found = BTreeMap::new();
    for pod in [
        "base exec deploy/frontend",
        "istio-system exec deploy/istio-ingressgateway",
    ] {
        let words =
            format!("{pod} -c istio-proxy -- curl -s 127.0.0.1:15000/stats?filter={filter}");
        for line in kubectl(demo, &words).lines() {
            let (name, value) = line.split_once(": ").unwrap();
            found.insert(format!("{pod} {name}"), value.to_owned());
        }
    }
    assert!(found.len() >= 8, "{found:?}");
    found
}

/// What is killed would be started again at once: here it is gone for a while.
fn stay_away(demo: &Demo) {
    drop(kubectl(
        demo,
        "istio-system scale deployment/istiod --replicas=0",
    ));
    drop(kubectl(
        demo,
        "istio-system delete pod -l app=istiod --force --grace-period=0",
    ));
    eventually("it is gone", SOON, || {
        match kubectl(demo, "istio-system get pods -l app=istiod -o name") {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        }
    });
}

fn come_back(demo: &Demo) {
    drop(kubectl(
        demo,
        "istio-system scale deployment/istiod --replicas=1",
    ));
    drop(kubectl(
        demo,
        "istio-system rollout status deployment/istiod --timeout=90s",
    ));
}

fn change(demo: &Demo) {
    let direct = json!({"directResponse": {"status": 418}});
    apply(
        demo,
        "after-the-outage",
        &[json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "after-the-outage", "namespace": "base"},
            "spec": {"hosts": [NEW_HOST], "gateways": ["frontend-gw"], "http": [direct]},
        })],
    );
}
