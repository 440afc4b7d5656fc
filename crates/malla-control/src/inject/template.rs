//! The containers and volumes a pod is given.
//!
//! What Istio's `sidecar` template adds, written as code: users' templates are a later matter
//! (docs/decisions/0003-injection-template.md). A pod that already has a container `istio-proxy` keeps its fields over ours.

use serde_json::{Map, Value, json};

use super::InjectSettings;
use super::options::{Capture, PodOptions};
use super::scrape;

/// The user and group a proxy runs as; the capture rules let its traffic pass.
pub const PROXY_UID: u32 = 1337;
pub const PROXY_CONTAINER: &str = "istio-proxy";
pub const INIT_CONTAINER: &str = "istio-init";
const APP_PROBERS: &str = "ISTIO_KUBE_APP_PROBERS";

/// Where the agent answers probes of the application on the kubelet's behalf.
const AGENT_PORT: u16 = 15020;

/// The pod with its proxy.
#[must_use]
pub fn add_proxy(
    pod: &Value,
    namespace: &str,
    options: &PodOptions,
    settings: &InjectSettings,
) -> Value {
    let mut pod = pod.clone();
    let probers = if options.rewrite_probes {
        rewrite_probes(&mut pod, options)
    } else {
        Map::new()
    };
    let users = take_container(&mut pod, PROXY_CONTAINER);
    let scraped = scrape::redirect(&mut pod, AGENT_PORT);
    let mut proxy = proxy_container(&pod, namespace, options, settings, &probers);
    if let (Some(scraped), Some(env)) = (scraped, proxy["env"].as_array_mut()) {
        env.push(json!({"name": scrape::VARIABLE, "value": scraped}));
    }
    let proxy = merge(proxy, users);
    let mut init_names = Vec::new();

    let mut init = Vec::new();
    if options.capture != Capture::None {
        init_names.push(INIT_CONTAINER);
        init.push(init_container(options));
    }
    if options.native_sidecar {
        init.push(merge(proxy, Some(json!({"restartPolicy": "Always"}))));
        init_names.push(PROXY_CONTAINER);
    } else if options.hold_application {
        // First, so that its postStart hook holds the others back.
        list(&mut pod, "containers").insert(0, proxy);
    } else {
        list(&mut pod, "containers").push(proxy);
    }
    let own_init = std::mem::take(list(&mut pod, "initContainers"));
    init.extend(own_init);
    *list(&mut pod, "initContainers") = init;

    let volumes = volumes();
    let volume_names: Vec<Value> = volumes.iter().map(|v| v["name"].clone()).collect();
    list(&mut pod, "volumes").extend(volumes);
    label(
        &mut pod,
        &volume_names,
        &init_names,
        options.native_sidecar,
        settings,
    );
    pod
}

fn list<'a>(pod: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    let slot = &mut pod["spec"][name];
    if !slot.is_array() {
        *slot = json!([]);
    }
    slot.as_array_mut()
        .expect("it was made an array just above")
}

fn take_container(pod: &mut Value, name: &str) -> Option<Value> {
    let containers = list(pod, "containers");
    let at = containers.iter().position(|c| c["name"] == name)?;
    Some(containers.remove(at))
}

/// The user's own fields win; maps merge, lists of named things merge by name.
fn merge(ours: Value, users: Option<Value>) -> Value {
    match (ours, users) {
        (ours, None) => ours,
        (Value::Object(mut ours), Some(Value::Object(users))) => {
            for (key, value) in users {
                let merged = merge(ours.remove(&key).unwrap_or(Value::Null), Some(value));
                ours.insert(key, merged);
            }
            Value::Object(ours)
        }
        (Value::Array(mut ours), Some(Value::Array(users)))
            if users.iter().all(|u| u["name"].is_string()) =>
        {
            for user in users {
                match ours.iter_mut().find(|own| own["name"] == user["name"]) {
                    Some(own) => *own = merge(own.take(), Some(user)),
                    None => ours.push(user),
                }
            }
            Value::Array(ours)
        }
        (_, Some(users)) => users,
    }
}

fn init_container(options: &PodOptions) -> Value {
    let r = &options.redirect;
    let excluded = ["15090", "15021", "15020", r.exclude_inbound_ports.as_str()];
    let excluded = excluded
        .into_iter()
        .filter(|port| !port.is_empty())
        .collect::<Vec<_>>()
        .join(",");
    let uid = PROXY_UID.to_string();
    let mut args: Vec<&str> = vec![
        "init",
        "-p",
        "15001",
        "-z",
        "15006",
        "-u",
        &uid,
        "-g",
        &uid,
        "-m",
        options.capture.name(),
        "-i",
        &r.outbound_ranges,
        "-x",
        &r.exclude_outbound_ranges,
        "-b",
        &r.inbound_ports,
        "-d",
        &excluded,
    ];
    if !r.outbound_ports.is_empty() {
        args.extend(["-q", &r.outbound_ports]);
    }
    if !r.exclude_outbound_ports.is_empty() {
        args.extend(["-o", &r.exclude_outbound_ports]);
    }
    if options.dns_capture {
        args.push("--redirect-dns");
    }
    json!({
        "name": INIT_CONTAINER,
        "image": options.image,
        "args": args,
        "resources": resources(options),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": false,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    })
}

fn resources(options: &PodOptions) -> Value {
    let r = &options.resources;
    let mut limits = Map::new();
    limits.extend(r.cpu_limit.iter().map(|v| ("cpu".to_owned(), json!(v))));
    limits.extend(
        r.memory_limit
            .iter()
            .map(|v| ("memory".to_owned(), json!(v))),
    );
    let mut resources = json!({"requests": {"cpu": r.cpu_request, "memory": r.memory_request}});
    if !limits.is_empty() {
        resources["limits"] = Value::Object(limits);
    }
    resources
}

fn proxy_container(
    pod: &Value,
    namespace: &str,
    options: &PodOptions,
    settings: &InjectSettings,
    probers: &Map<String, Value>,
) -> Value {
    let mut args = vec![
        json!("proxy"),
        json!("sidecar"),
        json!("--domain"),
        json!(format!("$(POD_NAMESPACE).svc.{}", settings.domain)),
        json!("--log-level"),
        json!(options.log_level),
    ];
    if let Some(workers) = options.concurrency {
        args.extend([json!("--concurrency"), json!(workers.to_string())]);
    }
    if let Some(drain) = options.termination_drain {
        args.extend([
            json!("--drain-duration"),
            json!(format!("{}ms", drain.as_millis())),
        ]);
    }
    args.extend(settings.extra_proxy_args.iter().map(|arg| json!(arg)));

    let mut container = json!({
        "name": PROXY_CONTAINER,
        "image": options.image,
        "args": args,
        "ports": [{"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}],
        "env": environment(pod, namespace, options, settings, probers),
        "resources": resources(options),
        "securityContext": rights(options.capture),
        "startupProbe": {
            "httpGet": {"path": "/healthz/ready", "port": options.status_port},
            "initialDelaySeconds": 0, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600,
        },
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": options.status_port},
            "initialDelaySeconds": options.readiness.initial_delay,
            "periodSeconds": options.readiness.period,
            "timeoutSeconds": 3,
            "failureThreshold": options.readiness.failures,
        },
        "volumeMounts": [
            {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
            {"name": "istio-data", "mountPath": "/var/lib/istio/data"},
            {"name": "istio-envoy", "mountPath": "/etc/istio/proxy"},
            {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
            {"name": "istio-podinfo", "mountPath": "/etc/istio/pod"},
        ],
    });
    if options.hold_application && !options.native_sidecar {
        container["lifecycle"] =
            json!({"postStart": {"exec": {"command": ["malla", "proxy", "wait"]}}});
    }
    container
}

/// What the proxy may do. To call the application from its clients' addresses it needs NET_ADMIN, which only root keeps; its
/// group tells the rules of `malla init` whose traffic it is.
fn rights(capture: Capture) -> Value {
    let transparent = capture == Capture::Tproxy;
    let mut capabilities = json!({"drop": ["ALL"]});
    if transparent {
        capabilities["add"] = json!(["NET_ADMIN"]);
    }
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": capabilities,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": PROXY_UID,
        "runAsNonRoot": !transparent,
        "runAsUser": if transparent { 0 } else { PROXY_UID },
    })
}

fn environment(
    pod: &Value,
    namespace: &str,
    options: &PodOptions,
    settings: &InjectSettings,
    probers: &Map<String, Value>,
) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let plain = |name: &str, value: String| json!({"name": name, "value": value});
    let containers = || {
        pod.pointer("/spec/containers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let names: Vec<&str> = containers().filter_map(|c| c["name"].as_str()).collect();
    let ports: Vec<&Value> = containers()
        .filter_map(|c| c["ports"].as_array())
        .flatten()
        .collect();
    let mode = options.capture.name();
    let (workload, owner) = owner(pod, namespace);
    let mut env = vec![
        plain("CA_ADDR", settings.discovery_address.clone()),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        plain("TRUST_DOMAIN", settings.trust_domain.clone()),
        plain("ISTIO_META_CLUSTER_ID", settings.cluster_id.clone()),
        plain("ISTIO_META_MESH_ID", settings.mesh_id.clone()),
        plain("ISTIO_META_INTERCEPTION_MODE", mode.to_owned()),
        plain("ISTIO_META_APP_CONTAINERS", names.join(",")),
        plain("ISTIO_META_POD_PORTS", json!(ports).to_string()),
        plain("ISTIO_META_WORKLOAD_NAME", workload),
        plain("ISTIO_META_OWNER", owner),
    ];
    if !probers.is_empty() {
        env.push(plain(
            APP_PROBERS,
            Value::Object(probers.clone()).to_string(),
        ));
    }
    env.extend(
        options
            .environment
            .iter()
            .map(|(name, value)| plain(name, value.clone())),
    );
    env
}

/// The name users know the pod's owner by, and Istio's reference to it.
fn owner(pod: &Value, namespace: &str) -> (String, String) {
    let reference = pod.pointer("/metadata/ownerReferences/0");
    let kind = reference.and_then(|r| r["kind"].as_str()).unwrap_or("Pod");
    let name = reference
        .and_then(|r| r["name"].as_str())
        .or_else(|| pod.pointer("/metadata/name")?.as_str());
    let hash = pod
        .pointer("/metadata/labels/pod-template-hash")
        .and_then(Value::as_str);
    let name = name
        .or_else(|| pod.pointer("/metadata/generateName")?.as_str())
        .unwrap_or_default();
    let deployment = hash
        .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
        .filter(|_| kind == "ReplicaSet");
    let (api, plural, name) = match (kind, deployment) {
        (_, Some(deployment)) => ("apps/v1", "deployments", deployment),
        ("ReplicaSet", None) => ("apps/v1", "replicasets", name),
        ("StatefulSet", _) => ("apps/v1", "statefulsets", name),
        ("DaemonSet", _) => ("apps/v1", "daemonsets", name),
        ("Job", _) => ("batch/v1", "jobs", name),
        _ => ("v1", "pods", name.trim_end_matches('-')),
    };
    (
        name.to_owned(),
        format!("kubernetes://apis/{api}/namespaces/{namespace}/{plural}/{name}"),
    )
}

pub(crate) fn volumes() -> Vec<Value> {
    vec![
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]}}),
        json!({"name": "istio-token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "istio-token", "expirationSeconds": 43200, "audience": "istio-ca"}},
        ]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
    ]
}

/// Sends the application's HTTP probes through the agent, which may call the application while
/// peers must speak mutual TLS. Returns the agent's table, keyed by the new paths.
fn rewrite_probes(pod: &mut Value, options: &PodOptions) -> Map<String, Value> {
    let mut table = Map::new();
    if options.capture == Capture::None {
        return table;
    }
    for container in list(pod, "containers") {
        let Some(name) = container["name"].as_str().map(str::to_owned) else {
            continue;
        };
        if name == PROXY_CONTAINER {
            continue;
        }
        for (probe, path) in [
            ("readinessProbe", "readyz"),
            ("livenessProbe", "livez"),
            ("startupProbe", "startupz"),
        ] {
            let ports = container["ports"].clone();
            let Some(handler) = container.get_mut(probe).and_then(|p| p.get_mut("httpGet")) else {
                continue;
            };
            let path = format!("/app-health/{name}/{path}");
            let mut original = handler.clone();
            if let Some(number) = named_port(&ports, &original["port"]) {
                original["port"] = number;
            }
            *handler = json!({"path": path, "port": AGENT_PORT, "scheme": "HTTP"});
            let timeout = container[probe]["timeoutSeconds"].as_u64().unwrap_or(1);
            table.insert(
                path,
                json!({"httpGet": original, "timeoutSeconds": timeout}),
            );
        }
    }
    table
}

fn named_port(ports: &Value, wanted: &Value) -> Option<Value> {
    let wanted = wanted.as_str()?;
    let port = ports
        .as_array()?
        .iter()
        .find(|port| port["name"] == wanted)?;
    Some(port["containerPort"].clone())
}

fn label(
    pod: &mut Value,
    volumes: &[Value],
    init: &[&str],
    native: bool,
    settings: &InjectSettings,
) {
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let first = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels.get(*name)?.as_str().map(str::to_owned))
    };
    let canonical = first(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ])
    .unwrap_or_else(|| owner(pod, "").0);
    let revision = first(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ])
    .unwrap_or_else(|| "latest".to_owned());
    let control_revision = settings.revisions.first().map_or("default", String::as_str);
    let containers: &[&str] = if native { &[] } else { &[PROXY_CONTAINER] };
    let status = json!({
        "initContainers": init, "containers": containers, "volumes": volumes,
        "imagePullSecrets": null, "revision": control_revision,
    });
    let mut set = |map: &str, key: &str, value: String, keep: bool| {
        let slot = &mut pod["metadata"][map][key];
        if slot.is_null() || !keep {
            *slot = json!(value);
        }
    };
    set(
        "labels",
        "security.istio.io/tlsMode",
        "istio".to_owned(),
        true,
    );
    set("labels", "service.istio.io/canonical-name", canonical, true);
    set(
        "labels",
        "service.istio.io/canonical-revision",
        revision,
        true,
    );
    set(
        "annotations",
        "sidecar.istio.io/status",
        status.to_string(),
        false,
    );
    set(
        "annotations",
        "istio.io/rev",
        control_revision.to_owned(),
        false,
    );
}

#[cfg(test)]
mod tests {
    use super::super::{Injection, inject};
    use super::*;

    fn settings() -> InjectSettings {
        InjectSettings {
            image: "malla/malla".into(),
            discovery_address: "istiod.istio-system.svc:15012".into(),
            domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            cluster_id: "Kubernetes".into(),
            mesh_id: "cluster.local".into(),
            revisions: vec!["default".into()],
            extra_proxy_args: vec![],
            hold_application: false,
            root_namespace: "istio-system".into(),
        }
    }

    fn injected(pod: &Value) -> (Value, Vec<String>) {
        let labels = [("istio-injection".to_owned(), "enabled".to_owned())].into();
        match inject(pod, "base", &labels, &settings()).unwrap() {
            Injection::Injected { pod, warnings } => (*pod, warnings),
            Injection::Skipped(why) => panic!("skipped: {why:?}"),
        }
    }

    fn pod() -> Value {
        json!({
            "metadata": {
                "generateName": "cart-5d8f-",
                "labels": {"app": "cart", "pod-template-hash": "5d8f"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5d8f"}],
            },
            "spec": {"containers": [{"name": "cart", "ports": [{"containerPort": 7000, "name": "web"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "web"}}}]},
        })
    }

    fn env<'a>(container: &'a Value, name: &str) -> &'a str {
        let all = container["env"].as_array().unwrap();
        all.iter().find(|e| e["name"] == name).unwrap()["value"]
            .as_str()
            .unwrap()
    }

    #[test]
    fn a_pod_gets_two_containers_and_an_init_step() {
        let (pod, warnings) = injected(&pod());
        assert_eq!(warnings, Vec::<String>::new());
        let spec = &pod["spec"];
        assert_eq!(spec["containers"].as_array().unwrap().len(), 2);
        assert_eq!(spec["initContainers"][0]["name"], INIT_CONTAINER);
        let proxy = &spec["containers"][1];
        assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
        assert_eq!(env(proxy, "ISTIO_META_WORKLOAD_NAME"), "cart");
        assert_eq!(
            env(proxy, "ISTIO_META_OWNER"),
            "kubernetes://apis/apps/v1/namespaces/base/deployments/cart"
        );
        assert_eq!(
            pod["metadata"]["labels"]["security.istio.io/tlsMode"],
            "istio"
        );
    }

    #[test]
    fn a_transparent_proxy_may_take_any_address() {
        let mut asked = pod();
        asked["metadata"]["annotations"] = json!({"sidecar.istio.io/interceptionMode": "TPROXY"});
        let (pod, warnings) = injected(&asked);
        assert_eq!(warnings, Vec::<String>::new());
        let spec = &pod["spec"];
        let args = spec["initContainers"][0]["args"].as_array().unwrap();
        assert!(
            args.windows(2).any(|pair| pair == ["-m", "TPROXY"]),
            "{args:?}"
        );
        let proxy = &spec["containers"][1];
        let rights = &proxy["securityContext"];
        assert_eq!(
            rights["capabilities"],
            json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})
        );
        assert_eq!(rights["runAsUser"], 0);
        assert_eq!(rights["runAsGroup"], 1337);
        assert_eq!(env(proxy, "ISTIO_META_INTERCEPTION_MODE"), "TPROXY");
    }

    #[test]
    fn probes_go_through_the_agent() {
        let (pod, _) = injected(&pod());
        let containers = &pod["spec"]["containers"];
        assert_eq!(
            containers[0]["readinessProbe"]["httpGet"]["path"],
            "/app-health/cart/readyz"
        );
        let table: Value = serde_json::from_str(env(&containers[1], APP_PROBERS)).unwrap();
        assert_eq!(table["/app-health/cart/readyz"]["httpGet"]["port"], 7000);
    }

    #[test]
    fn a_users_own_proxy_container_wins() {
        let mut own = pod();
        own["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({
            "name": "istio-proxy", "image": "auto-1", "env": [{"name": "X", "value": "1"}]}));
        let (pod, _) = injected(&own);
        let containers = pod["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 2);
        assert_eq!(containers[1]["image"], "auto-1");
        assert_eq!(env(&containers[1], "X"), "1");
        assert_eq!(env(&containers[1], "ISTIO_META_APP_CONTAINERS"), "cart");
    }

    #[test]
    fn annotations_are_honoured_reported_or_refused() {
        let mut with = pod();
        with["metadata"]["annotations"] = json!({
            "traffic.sidecar.istio.io/excludeOutboundPorts": "25,587",
            "sidecar.istio.io/nativeSidecar": "true",
            "sidecar.istio.io/userVolume": "[]",
            "proxy.istio.io/config": "concurrency: 2\ntracing: {}\n",
        });
        let (pod, warnings) = injected(&with);
        let init = pod["spec"]["initContainers"].as_array().unwrap();
        assert!(
            init[0]["args"].to_string().contains(r#""-o","25,587""#),
            "{}",
            init[0]["args"]
        );
        assert_eq!(
            (&init[1]["name"], &init[1]["restartPolicy"]),
            (&json!("istio-proxy"), &json!("Always"))
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");

        with["metadata"]["annotations"] =
            json!({"traffic.sidecar.istio.io/includeInboundPorts": "http"});
        let labels = [("istio-injection".to_owned(), "enabled".to_owned())].into();
        let error = inject(&with, "base", &labels, &settings())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("inbound ports") && error.contains("\"http\""),
            "{error}"
        );
    }
}
