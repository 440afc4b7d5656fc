//! The console as a browser sees it, on the embedded API server in this process. Answers are held
//! against `ui/openapi.yaml`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Desk, GATEWAY, Reply};

#[tokio::test]
async fn every_answer_is_dressed_and_every_host_is_ours() {
    let desk = Desk::start().await;
    let page = desk.send("GET", "/", &[], "").await;
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("x-frame-options"), "DENY");
    for path in ["/", "/api/malla/v1/objects"] {
        let reply = desk
            .send("GET", path, &[("host", "evil.example")], "")
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (403, "forbidden".into()),
            "{path}"
        );
    }
    let missing = desk.get("/api/v1/query?query=up").await;
    assert_eq!(
        (missing.status, missing.code()),
        (503, "unavailable".into())
    );
    assert!(missing.body.contains("--data"), "{}", missing.body);
    let status = desk.get("/api/malla/v1/telemetry/status").await.json();
    assert_eq!(status["state"], "off");
    desk.conforms("TelemetryStatus", &status);
    let wrong = desk
        .send("PUT", "/api/malla/v1/objects", &desk.token(), "")
        .await;
    assert_eq!(wrong.code(), "invalid");
}

#[tokio::test]
async fn nothing_is_changed_without_the_sessions_token() {
    let desk = Desk::start().await;
    let body = json!({ "yaml": GATEWAY }).to_string();
    let apply = |headers: Vec<(String, String)>| {
        let (desk, body) = (&desk, body.clone());
        async move {
            let headers: Vec<_> = headers
                .iter()
                .map(|(a, b)| (a.as_str(), b.as_str()))
                .collect();
            desk.send("POST", "/api/malla/v1/objects:apply", &headers, &body)
                .await
        }
    };
    let owned = |headers: &[(&str, &str)]| {
        headers
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    let token = desk.token();
    assert_eq!(apply(owned(&[])).await.code(), "csrf");
    assert_eq!(apply(owned(&token[..1])).await.code(), "csrf");
    let mut foreign: Vec<(String, String)> = owned(&token);
    foreign.push(("origin".into(), "https://evil.example".into()));
    assert_eq!(apply(foreign).await.code(), "forbidden");
    assert_eq!(
        desk.get("/api/malla/v1/objects?kind=Gateway").await.json(),
        json!([])
    );
    assert_eq!(apply(owned(&token)).await.status, 200);
}

#[tokio::test]
async fn an_object_lives_through_check_apply_change_and_undo() {
    let desk = Desk::start().await;
    let checked = desk
        .post("/api/malla/v1/objects:check", json!({ "yaml": GATEWAY }))
        .await;
    desk.conforms("CheckResult", &checked.json());
    assert_eq!(checked.json()["ok"], true, "{}", checked.body);
    assert_eq!(checked.json()["diff"]["before"], "");
    assert_eq!(
        desk.get("/api/malla/v1/objects?kind=Gateway").await.json(),
        json!([])
    );

    let applied = desk
        .post(
            "/api/malla/v1/objects:apply",
            json!({ "yaml": GATEWAY, "note": "first" }),
        )
        .await;
    desk.conforms("Applied", &applied.json());
    let first = applied.json()["changes"][0].as_str().unwrap().to_owned();
    let edited = GATEWAY.replace("number: 80", "number: 81");
    let applied = desk
        .post("/api/malla/v1/objects:apply", json!({ "yaml": edited }))
        .await;
    let second = applied.json()["changes"][0].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    // What is there already is no change.
    let same = desk
        .post("/api/malla/v1/objects:apply", json!({ "yaml": edited }))
        .await;
    assert_eq!(same.json()["changes"], json!([]));

    let detail = desk
        .get("/api/malla/v1/objects/Gateway/base/web")
        .await
        .json();
    desk.conforms("ObjectDetail", &detail);
    assert!(
        detail["yaml"].as_str().unwrap().contains("number: 81"),
        "{detail}"
    );
    let list = desk
        .eventually("/api/malla/v1/objects", |list| {
            list.as_array().unwrap().len() == 1
        })
        .await;
    desk.conforms_all("ObjectSummary", &list);
    assert_eq!(list[0]["manager"], "malla-console");

    let undone = desk
        .post(&format!("/api/malla/v1/changes/{second}/undo"), json!({}))
        .await;
    assert_eq!(undone.status, 200, "{}", undone.body);
    let detail = desk
        .get("/api/malla/v1/objects/Gateway/base/web")
        .await
        .json();
    assert!(
        detail["yaml"].as_str().unwrap().contains("number: 80"),
        "{detail}"
    );
    let deleted = desk.delete("/api/malla/v1/objects/Gateway/base/web").await;
    desk.conforms("Applied", &deleted.json());
    assert_eq!(
        desk.get("/api/malla/v1/objects/Gateway/base/web")
            .await
            .status,
        404
    );

    let changes = desk
        .get("/api/malla/v1/changes?kind=Gateway&name=web")
        .await
        .json();
    desk.conforms_all("Change", &changes);
    let told: Vec<String> = changes
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{} {} {}",
                c["action"].as_str().unwrap(),
                c["who"].as_str().unwrap(),
                c["note"].as_str().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "delete ann -".to_owned(),
            format!("update ann undo of change {second}"),
            "update ann -".into(),
            "create ann first".into()
        ]
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_line() {
    let desk = Desk::start().await;
    let check = |yaml: String| {
        let desk = &desk;
        async move {
            let reply: Reply = desk
                .post("/api/malla/v1/objects:check", json!({ "yaml": yaml }))
                .await;
            desk.conforms("CheckResult", &reply.json());
            let errors = reply.json()["errors"].clone();
            assert_eq!(reply.json()["ok"], errors.as_array().unwrap().is_empty());
            errors
        }
    };
    let errors = check(GATEWAY.replace("number: 80", "number: 80000")).await;
    assert!(
        errors.as_array().unwrap().iter().any(|e| e["line"] == 11),
        "{errors}"
    );
    let errors = check("a: [1\nb: 2\n".into()).await;
    assert!(
        errors[0]["line"].as_u64().is_some() && errors[0]["path"] == "",
        "{errors}"
    );
    let errors = check(format!(
        "{GATEWAY}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n"
    ))
    .await;
    assert_eq!(errors[0]["line"], 17, "{errors}");
    assert_eq!(
        check(String::new()).await[0]["message"],
        "there is no object in it"
    );
    let refused = desk
        .post("/api/malla/v1/objects:apply", json!({ "yaml": "kind: [" }))
        .await;
    assert_eq!(refused.code(), "invalid");
    let refused = desk
        .post("/api/malla/v1/objects:apply", json!({ "yml": "" }))
        .await;
    assert_eq!(refused.code(), "invalid");
}

#[tokio::test]
async fn others_changes_are_seen_and_told() {
    let desk = Desk::start().await;
    let mut events = desk.events().await;
    desk.kubernetes_apply("kubectl", GATEWAY).await;
    let event = events.next("object").await;
    desk.conforms("ObjectEvent", &event);
    assert_eq!(
        (&event["kind"], &event["action"]),
        (&json!("Gateway"), &json!("applied"))
    );
    let change = events.next("change").await;
    desk.conforms("ChangeEvent", &change);
    assert_eq!(change["who"], "kubectl");
    desk.kubernetes_delete().await;
    let changes = desk
        .eventually("/api/malla/v1/changes", |changes| {
            changes.as_array().unwrap().len() == 2
        })
        .await;
    assert_eq!(
        (&changes[0]["action"], &changes[0]["who"]),
        (&json!("delete"), &json!("unknown"))
    );
    assert_eq!(changes[1]["who"], "kubectl");
}

#[tokio::test]
async fn every_page_has_its_answer_on_an_empty_mesh() {
    let desk = Desk::start().await;
    for (path, schema) in [
        ("session", "Session"),
        ("overview", "Overview"),
        ("security", "Security"),
    ] {
        let reply = desk.get(&format!("/api/malla/v1/{path}")).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        desk.conforms(schema, &reply.json());
    }
    for (path, schema) in [
        ("kinds", "Kind"),
        ("services", "ServiceSummary"),
        ("gateways", "GatewaySummary"),
        ("proxies", "Proxy"),
        ("lessons", "Lesson"),
        ("changes", "Change"),
    ] {
        let reply = desk.get(&format!("/api/malla/v1/{path}")).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        desk.conforms_all(schema, &reply.json());
    }
    for path in [
        "services/a/b",
        "objects/Gateway/a/b",
        "objects/Nothing/a/b",
        "proxies/a/b/config",
    ] {
        let reply = desk.get(&format!("/api/malla/v1/{path}")).await;
        assert_eq!(
            (reply.status, reply.code()),
            (404, "not_found".into()),
            "{path}"
        );
        desk.conforms("Error", &reply.json());
    }
    let undo = desk.post("/api/malla/v1/changes/77/undo", json!({})).await;
    assert_eq!(undo.code(), "not_found");
    let lesson = desk
        .post("/api/malla/v1/lessons/q77:apply", json!({}))
        .await;
    assert_eq!(lesson.code(), "not_found");
    let large = "x".repeat(3 * 1024 * 1024);
    let reply = desk
        .post("/api/malla/v1/objects:check", json!({ "yaml": large }))
        .await;
    assert!(reply.status >= 400, "{}", reply.status);
}

#[tokio::test]
async fn a_service_shows_its_pods_and_rules() {
    let desk = Desk::start().await;
    desk.service("cart").await;
    desk.kubernetes_apply("kubectl", support::RULE).await;
    let list = desk.eventually("/api/malla/v1/services", |list| {
        list.as_array().unwrap().iter().any(|s| s["name"] == "cart")
    });
    desk.conforms_all("ServiceSummary", &list.await);
    let path = "/api/malla/v1/services/base/cart";
    let ready = |detail: &Value| {
        detail["instances"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
            && detail["destinationRule"].is_object()
    };
    let detail = desk.eventually(path, ready).await;
    desk.conforms("ServiceDetail", &detail);
    assert_eq!(
        detail["service"]["ports"],
        json!([{"name": "http", "port": 7000, "protocol": "HTTP"}])
    );
    assert_eq!(detail["service"]["sidecars"], "1/1");
    assert_eq!(detail["versions"][0]["name"], "v1");
    assert_eq!(detail["destinationRule"]["summary"], "loadBalancer");
    let security = desk.get("/api/malla/v1/security").await.json();
    assert_eq!(
        security["mtls"],
        json!([{"namespace": "base", "workload": "cart-1", "mode": "PERMISSIVE", "from": "default"}])
    );
    let proxies = desk.get("/api/malla/v1/proxies").await.json();
    desk.conforms_all("Proxy", &proxies);
    assert_eq!(
        (&proxies[0]["pod"], &proxies[0]["connectedTo"]),
        (&json!("cart-1"), &json!(""))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_mesh_has_empty_answers() {
    let desk = Desk::collecting().await;
    let graph = desk.get("/api/malla/v1/graph?window=60").await;
    assert_eq!(graph.status, 200, "{}", graph.body);
    desk.conforms("Graph", &graph.json());
    assert_eq!(graph.json()["nodes"], json!([]));
    let overview = desk.get("/api/malla/v1/overview").await.json();
    desk.conforms("Overview", &overview);
    assert_eq!(overview["signals"]["rps"], json!(0.0));
    assert!(overview["collector"]["bytes"].is_u64(), "{overview}");
    let status = desk.get("/api/malla/v1/telemetry/status").await.json();
    desk.conforms("TelemetryStatus", &status);
    let logs = desk.get("/api/malla/v1/logs").await.json();
    desk.conforms("LogPage", &logs);
    let services = desk.get("/jaeger/api/services").await.json();
    desk.conforms("JaegerNames", &services);
    let range = "/api/v1/query_range?query=up&start=1700000000&end=1700000060&step=15";
    desk.conforms("PromRange", &desk.get(range).await.json());
    for (path, schema) in [
        ("/api/v1/query?query=up", "PromAnswer"),
        ("/api/v1/labels", "PromNames"),
        ("/api/v1/label/job/values", "PromNames"),
        ("/api/v1/series?match%5B%5D=up", "PromSeries"),
        ("/api/v1/metadata", "PromAnswer"),
        ("/api/v1/targets", "PromTargets"),
        ("/api/v1/status/buildinfo", "PromAnswer"),
        ("/jaeger/api/operations?service=x", "JaegerOperations"),
        (
            "/jaeger/api/dependencies?endTs=1700000000000&lookback=1000",
            "JaegerDependencies",
        ),
        ("/jaeger/api/traces?service=x", "JaegerTraces"),
    ] {
        let answer = desk.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        desk.conforms(schema, &answer.json());
    }
    // Long questions come by POST, without a token.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let asked = desk
        .send("POST", "/api/v1/query", &form, "query=1%2B1")
        .await;
    assert_eq!(asked.json()["data"]["result"][1], "2");
    let wrong = desk.get("/api/malla/v1/graph?view=%3Cscript%3E").await;
    assert_eq!((wrong.status, wrong.code()), (422, "invalid".into()));
    assert_eq!(wrong.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_services_are_listed_also_without_the_api_server() {
    const MANY: usize = 10_000;
    let desk = Desk::start().await;
    desk.services(MANY).await;
    let all = |answer: &serde_json::Value| answer.as_array().is_some_and(|all| all.len() == MANY);
    desk.eventually("/api/malla/v1/services", all).await;
    // Unoptimised, on a busy machine; optimised it takes a twentieth of that.
    let limit = std::time::Duration::from_secs(4);
    let paths = [
        "/api/malla/v1/services",
        "/api/malla/v1/services/base/s9999",
        "/api/malla/v1/objects",
        "/api/malla/v1/gateways",
        "/api/malla/v1/security",
        "/api/malla/v1/overview",
    ];
    for path in paths {
        let started = std::time::Instant::now();
        assert_eq!(desk.get(path).await.status, 200, "{path}");
        let took = started.elapsed();
        assert!(took < limit, "{path} took {took:?}");
    }
    desk.lose_api_server();
    assert!(all(&desk.get("/api/malla/v1/services").await.json()));
}
