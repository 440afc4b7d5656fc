//! Tables as `kubectl get` shows them.

use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Columns, IncludeObject};
use crate::builtin;

fn now() -> Timestamp {
    Timestamp::from_str("2026-01-02T00:00:00Z").unwrap()
}

#[track_caller]
fn check(kind: &str, mut object: Value, want: Value) {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T23:54:30Z");
    let kinds = builtin::kinds();
    let kind = kinds
        .iter()
        .find(|candidate| candidate.kind == kind)
        .unwrap();
    let table = kind
        .columns
        .table(&[&object], json!({}), IncludeObject::None, now(), true);
    let columns = table["columnDefinitions"].as_array().unwrap().len();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), columns, "one cell per column");
    assert_eq!(table["rows"][0]["cells"], want);
}

#[test]
fn pods_show_what_they_do() {
    let running =
        json!({"name": "web", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let tail = |cells: [Value; 5]| {
        Value::from(
            [
                &cells[..],
                &[
                    json!("10.0.0.1"),
                    json!("n1"),
                    json!("<none>"),
                    json!("<none>"),
                ],
            ]
            .concat(),
        )
    };
    let pod = |status: Value| {
        let mut pod = json!({"spec": {"nodeName": "n1", "containers": [{"name": "web"}, {"name": "istio-proxy"}]}, "status": status});
        pod["status"]["podIP"] = json!("10.0.0.1");
        pod
    };
    check(
        "Pod",
        pod(
            json!({"phase": "Running", "containerStatuses": [running, {"name": "istio-proxy", "ready": false, "restartCount": 2,
            "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T23:59:00Z"}}}]}),
        ),
        tail([
            json!("x"),
            json!("1/2"),
            json!("Running"),
            json!("2 (60s ago)"),
            json!("5m30s"),
        ]),
    );
    check(
        "Pod",
        pod(
            json!({"phase": "Pending", "containerStatuses": [{"name": "web", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        ),
        tail([
            json!("x"),
            json!("0/2"),
            json!("CrashLoopBackOff"),
            json!("1"),
            json!("5m30s"),
        ]),
    );
    check(
        "Pod",
        pod(
            json!({"phase": "Failed", "containerStatuses": [{"name": "web", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}),
        ),
        tail([
            json!("x"),
            json!("0/2"),
            json!("ExitCode:3"),
            json!("0"),
            json!("5m30s"),
        ]),
    );
    let mut dying = pod(json!({"phase": "Running"}));
    dying["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    check(
        "Pod",
        dying,
        tail([
            json!("x"),
            json!("0/2"),
            json!("Terminating"),
            json!("0"),
            json!("5m30s"),
        ]),
    );
}

#[test]
fn init_containers_and_sidecars_count() {
    let pod = |init: Value, main: Value| {
        json!({"spec": {"containers": [{"name": "web"}], "initContainers": [{"name": "init"}, {"name": "proxy", "restartPolicy": "Always"}]},
            "status": {"phase": "Pending", "initContainerStatuses": init, "containerStatuses": main}})
    };
    let row = |ready: &str, status: &str| {
        json!([
            "x", ready, status, "0", "5m30s", "<none>", "<none>", "<none>", "<none>"
        ])
    };
    let waiting = json!([{"name": "web", "state": {"waiting": {"reason": "PodInitializing"}}}]);
    check(
        "Pod",
        pod(
            json!([{"name": "init", "state": {"running": {}}}]),
            waiting.clone(),
        ),
        row("0/2", "Init:0/2"),
    );
    check(
        "Pod",
        pod(
            json!([{"name": "init", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
            waiting,
        ),
        row("0/2", "Init:Error"),
    );
    let mut up = pod(
        json!([{"name": "init", "state": {"terminated": {"exitCode": 0}}}, {"name": "proxy", "started": true, "ready": true, "state": {"running": {}}}]),
        json!([{"name": "web", "ready": true, "state": {"running": {}}}]),
    );
    up["status"]["phase"] = json!("Running");
    check("Pod", up, row("2/2", "Running"));
}

#[test]
fn services_show_where_they_are() {
    check(
        "Service",
        json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "selector": {"app": "a"}, "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}}),
        json!([
            "x",
            "LoadBalancer",
            "10.0.0.1",
            "127.0.0.1",
            "80:30080/TCP,53/UDP",
            "5m30s",
            "app=a"
        ]),
    );
    check(
        "Service",
        json!({"spec": {"type": "LoadBalancer"}}),
        json!([
            "x",
            "LoadBalancer",
            "<none>",
            "<pending>",
            "<none>",
            "5m30s",
            "<none>"
        ]),
    );
    check(
        "Service",
        json!({"spec": {"clusterIP": "None"}}),
        json!([
            "x",
            "ClusterIP",
            "None",
            "<none>",
            "<none>",
            "5m30s",
            "<none>"
        ]),
    );
}

#[test]
fn other_kinds_have_their_columns() {
    check(
        "Deployment",
        json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
        json!(["x", "2/3", 3, 2, "5m30s", "c", "i:1", "app=a"]),
    );
    check(
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}, {"ip": "10.0.0.4"}], "ports": [{"port": 80}]}]}),
        json!([
            "x",
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...",
            "5m30s"
        ]),
    );
    check("Endpoints", json!({}), json!(["x", "<none>", "5m30s"]));
    check(
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        json!(["x", "IPv4", "80", "10.0.0.1", "5m30s"]),
    );
    check(
        "ConfigMap",
        json!({"data": {"a": "", "b": ""}, "binaryData": {"c": ""}}),
        json!(["x", 3, "5m30s"]),
    );
    check(
        "Secret",
        json!({"type": "Opaque", "data": {"a": ""}}),
        json!(["x", "Opaque", 1, "5m30s"]),
    );
    check(
        "Namespace",
        json!({"status": {"phase": "Active"}}),
        json!(["x", "Active", "5m30s"]),
    );
    check(
        "Node",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}}}),
        json!([
            "x",
            "Ready",
            "control-plane",
            "5m30s",
            "v1.36.0",
            "10.0.0.9",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
    check(
        "Lease",
        json!({"spec": {"holderIdentity": "me"}}),
        json!(["x", "me", "5m30s"]),
    );
    check(
        "CustomResourceDefinition",
        json!({}),
        json!(["x", "2026-01-01T23:54:30Z"]),
    );
    check(
        "MutatingWebhookConfiguration",
        json!({"webhooks": [{}]}),
        json!(["x", 1, "5m30s"]),
    );
    check(
        "Event",
        json!({"involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-01-01T23:59:00Z", "firstTimestamp": "2026-01-01T23:58:00Z",
            "type": "Normal", "reason": "Started", "message": "hi\n", "count": 4, "source": {"component": "kubelet"}}),
        json!([
            "60s", "Normal", "Started", "pod/p", "", "kubelet", "hi", "2m", "4", "x"
        ]),
    );
}

#[test]
fn custom_columns_follow_their_paths() {
    let columns = json!([
        {"name": "Gateways", "type": "string", "jsonPath": ".spec.gateways"},
        {"name": "Port", "type": "integer", "jsonPath": ".spec.port", "priority": 1},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let columns = Columns::from_crd(Some(&columns), "c").unwrap();
    let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"gateways": ["a/b"], "port": 80},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let table = columns.table(
        &[&object],
        json!({"resourceVersion": "7"}),
        IncludeObject::Metadata,
        now(),
        true,
    );
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["x", r#"["a/b"]"#, 80, "True", null, "24h"])
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    assert_eq!(table["metadata"]["resourceVersion"], "7");
    let bare = Columns::from_crd(None, "c").unwrap().table(
        &[&object],
        json!({}),
        IncludeObject::Object,
        now(),
        false,
    );
    assert_eq!(bare["rows"][0]["cells"], json!(["x", "24h"]));
    assert_eq!(bare["columnDefinitions"], json!([]));
    assert_eq!(bare["rows"][0]["object"], object);
}
