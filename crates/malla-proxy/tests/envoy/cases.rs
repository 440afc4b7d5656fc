//! What is compared.

use std::collections::BTreeMap;

use crate::backend;
use crate::h2::{self, Ask};
use crate::lab::{Lab, Side, free_port};
use crate::requests;
use crate::wire::exchange;

const CONFIG: &str = include_str!("config.yaml");

/// Both proxies, both backends, and a port nobody listens on.
pub(crate) fn lab() -> Lab {
    let backend = backend::start();
    let backend_h2 = h2::start();
    Lab::start(
        CONFIG,
        &[
            ("backend", backend.port().to_string()),
            ("backend_h2", backend_h2.port().to_string()),
            ("dead", free_port().to_string()),
        ],
    )
}

/// Runs every request and reports all differences at once.
#[test]
fn both_proxies_answer_alike() {
    let lab = lab();
    let mut failures = Vec::new();
    let mut check = |one: &dyn Fn()| {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(one)) {
            failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_default());
        }
    };
    let (requests, asks) = (requests::all(), asks());
    for (listener, request) in &requests {
        check(&|| drop(lab.check(listener, request)));
    }
    for (listener, ask) in &asks {
        check(&|| drop(lab.check_h2(listener, ask)));
    }
    let wanted = requests.len() + asks.len();
    failures.extend(log_differences(&lab, wanted, Side::lines));
    failures.extend(log_differences(&lab, wanted, Side::json_lines));
    failures.extend(count_differences(&lab));
    assert!(
        failures.is_empty(),
        "{} differences\n{}",
        failures.len(),
        failures.join("\n=========\n")
    );
}

/// gRPC requests that ask for a deadline, on routes that follow it and on others.
fn deadlines() -> impl Iterator<Item = (&'static str, Ask)> {
    const WITHIN: &[(&str, &str)] = &[
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "100m"),
    ];
    const BEYOND: &[(&str, &str)] = &[
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "9S"),
    ];
    const BROKEN: &[(&str, &str)] = &[
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "nonsense"),
    ];
    [
        ("/grpc-deadline", WITHIN),
        ("/grpc-deadline", BEYOND),
        ("/grpc-deadline", BROKEN),
        ("/stream-limit", WITHIN),
        ("/stream-unlimited", WITHIN),
    ]
    .into_iter()
    .map(|(path, headers)| {
        let ask = Ask {
            method: "POST",
            path,
            body: "message",
            headers,
            ..Ask::default()
        };
        ("plain", ask)
    })
}

/// The same over HTTP/2, to both kinds of backend.
fn asks() -> Vec<(&'static str, Ask)> {
    let ask = |method, path, body| Ask {
        method,
        path,
        body,
        ..Ask::default()
    };
    let get = |path| ask("GET", path, "");
    let post = |path, body| ask("POST", path, body);
    let grpc = &[("content-type", "application/grpc"), ("te", "trailers")];
    let mut out = Vec::new();
    for path in [
        "/",
        "/status/404",
        "/status/204",
        "/chunked",
        "/reset",
        "/half",
        "/dead",
        "/direct",
        "/timeout",
        "/retry/flaky/503/1/h",
        "/h2/echo?a=b",
        "/h2/reset",
        "/h2/reset-later",
        "/h2/grpc",
        "/h2/grpc-error",
    ] {
        out.push(("plain", get(path)));
    }
    out.push(("plain", post("/", "hello")));
    out.push(("plain", ask("GET", "/", "hello")));
    out.push(("plain", post("/h2/echo", "hello")));
    out.push((
        "plain",
        Ask {
            headers: grpc,
            ..post("/h2/grpc", "message")
        },
    ));
    out.push((
        "plain",
        Ask {
            headers: grpc,
            ..post("/dead", "")
        },
    ));
    out.push((
        "plain",
        Ask {
            headers: grpc,
            ..post("/timeout", "message")
        },
    ));
    out.extend(deadlines());
    out.push((
        "plain",
        Ask {
            trailers: &[("x-after", "1")],
            ..post("/h2/echo", "hello")
        },
    ));
    out.push((
        "plain",
        Ask {
            method: "HEAD",
            ..get("/h2/echo")
        },
    ));
    out.push((
        "plain",
        Ask {
            headers: &[("host", "other.example")],
            ..get("/h2/echo")
        },
    ));
    out.push((
        "plain",
        Ask {
            headers: &[("cookie", "a=1"), ("cookie", "b=2")],
            ..get("/")
        },
    ));
    out.push((
        "plain",
        Ask {
            headers: &[("x-forwarded-proto", "https")],
            ..get("/h2/echo")
        },
    ));
    out
}

/// Every counter of requests that both have.
fn count_differences(lab: &Lab) -> Vec<String> {
    let (envoy, malla) = (counters(&lab.envoy), counters(&lab.malla));
    let differ = |(name, have): (&String, &u64)| {
        let want = envoy.get(name)?;
        (want != have).then(|| format!("{name}: Envoy counted {want}, Malla {have}"))
    };
    malla.iter().filter_map(differ).collect()
}

fn counters(side: &Side) -> BTreeMap<String, u64> {
    let request = "GET /stats HTTP/1.1\r\nhost: admin\r\n\r\n";
    let answer = exchange(side.address("admin"), request);
    let counts = |name: &str| {
        let of_requests = ["_rq_", "rbac", ".grpc."]
            .iter()
            .any(|part| name.contains(part));
        // Envoy counts an early answer to a request still being read among resets, and 100 Continue as an answer.
        let of_codecs = [
            "rx_reset",
            "tx_reset",
            "1xx",
            "rq_completed",
            "before_rq_complete",
        ];
        let of_codecs =
            name.starts_with("http.") && of_codecs.iter().any(|end| name.ends_with(end));
        of_requests
            && !of_codecs
            && (name.starts_with("http.plain.")
                || name.starts_with("http.edge.")
                || name.starts_with("cluster."))
    };
    let lines = answer.body.lines().filter_map(|line| line.split_once(": "));
    let lines = lines.filter(|(name, _)| counts(name));
    lines
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Envoy's codec refuses before it knows what was asked for; here the request is known by then.
fn comparable_line(line: &str) -> String {
    let line = crate::wire::mask(line);
    match line.find(" DPE ") {
        Some(at) => line
            .get(at - 3..)
            .and_then(|line| line.split(" - ").next())
            .unwrap_or_default()
            .to_owned(),
        None if line.contains("\"DPE\"") => "DPE".into(),
        None => line,
    }
}

/// The same number of lines, equal but for times and ports.
fn log_differences(
    lab: &Lab,
    wanted: usize,
    lines: impl Fn(&Side, usize) -> Vec<String>,
) -> Vec<String> {
    let lines = |side| {
        lines(side, wanted)
            .iter()
            .map(|line| comparable_line(line))
            .collect::<Vec<_>>()
    };
    let (envoy, malla) = (lines(&lab.envoy), lines(&lab.malla));
    let differ = |(left, right): (&String, &String)| {
        (left != right).then(|| format!("envoy {left}\nmalla {right}"))
    };
    let mut failures: Vec<String> = envoy.iter().zip(&malla).filter_map(differ).collect();
    if envoy.len() != malla.len() {
        failures.push(format!(
            "envoy wrote {} lines, malla {}",
            envoy.len(),
            malla.len()
        ));
    }
    failures
}
