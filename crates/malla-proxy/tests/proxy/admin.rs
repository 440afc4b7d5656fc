//! The admin endpoint answers as Envoy's: same statuses, same words, same shapes.
use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Certs, Envoy, Running, echo, free_port, http_get};

/// Half of the paths of the runtime: a flag of a route, a weight, a layer that the admin endpoint overrides.
fn yaml(web: SocketAddr) -> String {
    let routes = "{ match: { path: /share, runtime_fraction: { default_value: { numerator: 100 }, runtime_key: share.part } }, direct_response: { status: 200, body: { inline_string: first } } }, { match: { prefix: / }, direct_response: { status: 200, body: { inline_string: second } } }";
    let listener = super::support::listener("web", web, &super::support::http(routes, ""), "");
    format!(
        "node: {{ id: me, cluster: us }}
layered_runtime:
  layers:
  - {{ name: fixed, static_layer: {{ share: {{ part: 100 }}, some: {{ flag: true, text: words }} }} }}
  - {{ name: admin, admin_layer: {{}} }}
static_resources:
  listeners:
{listener}"
    )
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    // Envoy sends its dumps in chunks: only their text matters here.
    let body = if head.contains("transfer-encoding: chunked") {
        let lines = body.split("\r\n").collect::<Vec<_>>();
        lines
            .chunks(2)
            .filter_map(|pair| pair.get(1))
            .copied()
            .collect()
    } else {
        body.to_owned()
    };
    (status, body)
}

#[tokio::test]
async fn words_and_shapes_are_envoys() {
    let (theirs, ours) = (free_port(), free_port());
    let envoy = Envoy::start(&yaml(theirs)).await;
    let (malla, _) = Running::start(&yaml(ours), "web").await;
    let same = [
        ("POST", "/runtime_modify"),
        ("GET", "/runtime_modify?a=b"),
        ("POST", "/runtime_modify?share.part=0&other=1"),
        ("GET", "/quitquitquit"),
        ("POST", "/healthcheck/fail"),
        ("GET", "/ready"),
        ("POST", "/healthcheck/ok"),
        ("GET", "/ready"),
        ("GET", "/config_dump?resource=bogus"),
        ("GET", "/config_dump?mask=bogus"),
        ("GET", "/stats?type=Bogus"),
        ("POST", "/reset_counters"),
        ("GET", "/init_dump"),
    ];
    for (method, path) in same {
        let (want, got) = (
            ask(envoy.admin, method, path).await,
            ask(malla.admin, method, path).await,
        );
        let trimmed = |(status, body): (String, String)| (status, body.trim_end().to_owned());
        assert_eq!(trimmed(got), trimmed(want), "{method} {path}");
    }
    let runtime = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let (_, want) = ask(envoy.admin, "GET", "/runtime").await;
    let (_, got) = ask(malla.admin, "GET", "/runtime").await;
    assert_eq!(runtime(got), runtime(want));
    for path in ["/memory", "/server_info"] {
        let (_, want) = ask(envoy.admin, "GET", path).await;
        let (_, got) = ask(malla.admin, "GET", path).await;
        let want = runtime(want);
        for field in runtime(got).as_object().unwrap().keys() {
            assert!(want.get(field).is_some(), "{path}: Envoy has no `{field}`");
        }
    }
    malla.stop().await;
}

/// A value that is overridden acts at once, and its default comes back.
async fn a_value_acts(web: SocketAddr, admin: SocketAddr) {
    assert_eq!(http_get(web, "/share").await, "first");
    assert_eq!(
        ask(admin, "POST", "/runtime_modify?share.part=0").await.0,
        "200"
    );
    assert_eq!(http_get(web, "/share").await, "second");
    assert_eq!(
        ask(admin, "POST", "/runtime_modify?share.part=").await.0,
        "200"
    );
    assert_eq!(http_get(web, "/share").await, "first");
}

#[tokio::test]
async fn runtime_values_decide_about_routes() {
    let (theirs, ours) = (free_port(), free_port());
    let envoy = Envoy::start(&yaml(theirs)).await;
    a_value_acts(theirs, envoy.admin).await;
    let (malla, _) = Running::start(&yaml(ours), "web").await;
    a_value_acts(ours, malla.admin).await;
    malla.stop().await;
}

/// Every field of a document and the type of its value.
fn shape(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, field)| shape(field, &format!("{at}.{name}"), out)),
        Value::Array(items) => items
            .iter()
            .for_each(|item| shape(item, &format!("{at}[]"), out)),
        Value::Number(_) => drop(out.insert(format!("{at}: number"))),
        Value::String(_) => drop(out.insert(format!("{at}: text"))),
        Value::Bool(_) => drop(out.insert(format!("{at}: bool"))),
        Value::Null => {}
    }
}

/// A listener with a route table, one with TLS, a cluster with an endpoint: what the shapes are made of.
fn rich(web: SocketAddr, app: SocketAddr, certs: &Certs) -> String {
    let routes = "{ match: { prefix: / }, route: { cluster: app } }";
    let web = super::support::listener("web", web, &super::support::http(routes, ""), "");
    let tls = format!(
        "  - name: tls
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains: [ {{ {}, filters: [ {} ] }} ]
",
        certs.downstream("server").trim(),
        super::support::tcp_proxy("app", "")
    );
    let mut yaml =
        super::support::bootstrap(&[web, tls], &[super::support::cluster("app", &[app], "")]);
    yaml.insert_str(
        0,
        "node: { id: me, cluster: us, locality: { zone: z } }\nstats_flush_interval: 0.1s\n",
    );
    yaml
}

/// Envoy's workers hand their distributions over by a timer.
async fn until_merged(admin: SocketAddr) {
    let deadline = tokio::time::Instant::now() + super::support::LIMIT;
    while !ask(admin, "GET", "/stats?filter=http.http.downstream_rq_time")
        .await
        .1
        .contains("P99")
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "Envoy merges nothing"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn documents_have_envoys_shapes() {
    let certs = Certs::new(&["server"]);
    let app = echo("a ").await;
    let (theirs, ours) = (free_port(), free_port());
    let envoy = Envoy::start(&rich(theirs, app, &certs)).await;
    let (malla, _) = Running::start(&rich(ours, app, &certs), "web").await;
    for address in [theirs, ours] {
        let (_, _) = ask(address, "GET", "/").await;
    }
    malla
        .until_stat("http.http.downstream_rq_completed: 1")
        .await;
    until_merged(envoy.admin).await;
    for path in [
        "/config_dump",
        "/config_dump?include_eds",
        "/config_dump?resource=static_clusters",
        "/clusters?format=json",
        "/listeners?format=json",
        "/certs",
        "/stats?format=json",
        "/stats?format=json&type=Histograms",
    ] {
        let [want, got] = [envoy.admin, malla.admin].map(|admin| async move {
            let (_, body) = ask(admin, "GET", path).await;
            let mut out = BTreeSet::new();
            shape(&serde_json::from_str(&body).unwrap(), "", &mut out);
            // Who wrote the program, and with what; where each listens; what only Envoy's timer knows.
            out.retain(|one| {
                !one.contains(".bootstrap.node.")
                    && !one.contains(".bootstrap.admin.")
                    && !one.contains(".interval")
            });
            out
        });
        let (want, got) = (want.await, got.await);
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| -> Vec<String> {
            a.difference(b).cloned().collect()
        };
        let (missing, more) = (only(&want, &got), only(&got, &want));
        assert!(
            missing.is_empty() && more.is_empty(),
            "{path}\nonly Envoy: {missing:#?}\nonly Malla: {more:#?}"
        );
    }
    for name in [
        "envoy_cluster_upstream_cx_connect_ms",
        "envoy_http_downstream_rq_time",
    ] {
        let [want, got] = [envoy.admin, malla.admin].map(|admin| async move {
            let (_, body) = ask(
                admin,
                "GET",
                "/stats/prometheus?histogram_buckets=cumulative",
            )
            .await;
            let lines = body.lines().filter(|line| line.contains(name));
            let bare = lines.filter(|line| {
                !line.contains("admin") && !line.starts_with(&format!("{name}_sum"))
            });
            bare.filter_map(|line| line.rsplit_once(' '))
                .map(|(head, _)| head.to_owned())
                .collect::<Vec<_>>()
        });
        assert_eq!(got.await, want.await, "{name}");
    }
    malla.stop().await;
}
