//! What the cluster of one machine, the agent and the control plane's webhooks read.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use malla_agent::settings::Paths;
use malla_agent::{Role, Settings, node};
use malla_control::inject::InjectSettings;
use malla_control::webhook::review::Reviewer;
use malla_local::fuzzing;
use malla_translate::NodeView;
use serde_json::{Map, Value, json};

use crate::input::Input;
use crate::samples::{KINDS, OBJECTS, pod};
use crate::values;

/// A datagram to the DNS server: an answer is to the question, and fits.
pub fn dns(data: &[u8]) {
    for size in [512, 1232] {
        if let fuzzing::Outcome::Answered(answer) = fuzzing::dns(data, size) {
            assert!(
                answer.len() <= usize::from(size),
                "{} bytes for {size}",
                answer.len()
            );
            assert_eq!(answer[..2], data[..2], "the id");
            assert_eq!(answer[2] & 0x80, 0x80, "an answer");
        }
    }
}

/// Texts that the node reads: quantities, arguments, image patterns, log lines, `resolv.conf`, health answers.
pub fn node_texts(data: &[u8]) {
    let mut input = Input::new(data);
    let (first, second) = (input.line(), input.line());
    let (one, other) = (
        String::from_utf8_lossy(first),
        String::from_utf8_lossy(second),
    );
    quantity(&one);
    let expanded = fuzzing::expand(&one);
    if !one.contains('$') {
        assert_eq!(expanded, one);
    }
    assert!(fuzzing::glob("*", &one));
    if !one.contains('*') {
        assert!(
            fuzzing::glob(&one, &one)
                && fuzzing::glob(&format!("{one}*"), &one)
                && fuzzing::glob(&format!("*{one}"), &one)
        );
    }
    let _ = fuzzing::glob(&one, &other);
    fuzzing::images(
        &json!({"data": {"a": one, "b": format!("{{\"image\": {}, \"command\": [\"x\"]}}", json!(one))}}),
        &other,
    );
    let _ = fuzzing::log_line(first);
    let _ = fuzzing::health(first);
    assert!(fuzzing::resolvers(&String::from_utf8_lossy(data)).len() <= 3);
    let annotated = json!({"metadata": {"annotations": {"local.malla.dev/published": one}}});
    let _ = malla_local::published(&annotated);
}

/// A quantity that the API server takes, the node understands.
fn quantity(text: &str) {
    static POD: LazyLock<Value> = LazyLock::new(|| OBJECTS[0].clone());
    let mut pod = POD.clone();
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": text}});
    let kind = KINDS
        .iter()
        .find(|kind| kind.kind == "Pod")
        .expect("pods are served");
    let complaints = kind.validate_create(&pod);
    let taken = !complaints
        .iter()
        .any(|complaint| complaint.to_string().contains("resources"));
    assert_eq!(
        fuzzing::milli(text).is_some_and(|milli| milli >= 0),
        taken,
        "{text:?}: {complaints:?}"
    );
}

/// The environment that the injector writes, as a JSON object of texts.
pub fn agent_settings(data: &[u8]) {
    let mut environment: BTreeMap<String, String> = [
        ("POD_NAME", "web-0"),
        ("POD_NAMESPACE", "default"),
        ("INSTANCE_IP", "10.1.0.1"),
        ("SERVICE_ACCOUNT", "web"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut input = Input::new(data);
    while !input.is_empty() && environment.len() < 32 {
        let line = String::from_utf8_lossy(input.line());
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        environment.insert(name.to_owned(), value.to_owned());
    }
    let nowhere = || Paths {
        token: "/dev/null".into(),
        root: "/dev/null".into(),
        pod_info: "/dev/null".into(),
        run: "/dev/null".into(),
    };
    for role in [Role::Sidecar, Role::Gateway] {
        let Ok(settings) = Settings::read(role, None, &environment, nowhere()) else {
            continue;
        };
        let wire = node::malla_node(&settings, "1");
        if let Ok(view) = NodeView::from_xds(&wire) {
            assert!(view.addresses.contains(&settings.address));
        }
        let _ = (
            settings.identity().to_string(),
            node::id(&settings),
            node::cluster(&settings),
        );
    }
}

fn reviewer() -> &'static Reviewer {
    static REVIEWER: LazyLock<Reviewer> = LazyLock::new(|| Reviewer {
        settings: InjectSettings {
            image: "malla/malla".to_owned(),
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            mesh_id: "mesh".to_owned(),
            revisions: vec!["default".to_owned()],
            extra_proxy_args: Vec::new(),
            hold_application: false,
            root_namespace: "istio-system".to_owned(),
        },
        namespaces: Arc::new(ArcSwap::from_pointee(
            [(
                "n".to_owned(),
                [("istio-injection".to_owned(), "enabled".to_owned())].into(),
            )]
            .into(),
        )),
    });
    &REVIEWER
}

const ANNOTATIONS: &[&str] = &[
    "sidecar.istio.io/inject",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/nativeSidecar",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/status",
    "sidecar.istio.io/interceptionMode",
    "status.sidecar.istio.io/port",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "prometheus.io/scrape",
    "prometheus.io/port",
    "prometheus.io/path",
    "proxy.istio.io/config",
    "istio.io/rev",
];

const CONFIGS: &[&str] = &[
    "{}",
    "concurrency: 2",
    "statusPort: 15020",
    "holdApplicationUntilProxyStarts: true",
    "terminationDrainDuration: 5s",
    "interceptionMode: TPROXY",
    "proxyMetadata: {A: b, ISTIO_META_DNS_CAPTURE: \"true\"}",
    "[",
    "a: &a [*a]",
    "concurrency: -1",
];

/// An AdmissionReview: whatever it says is answered, and a patch applies to the pod that it is about.
pub fn admission_review(data: &[u8]) {
    let mut input = Input::new(data);
    let review = if data.first() == Some(&b'{') {
        let Ok(review) = serde_json::from_slice::<Value>(data) else {
            return;
        };
        review
    } else {
        let mut annotations = Map::new();
        for _ in 0..input.below(5) {
            let value = if input.flag() {
                (*input.pick(CONFIGS)).to_owned()
            } else {
                values::text(&mut input)
            };
            annotations.insert((*input.pick(ANNOTATIONS)).to_owned(), value.into());
        }
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "spec": pod(),
            "metadata": {"name": "x", "namespace": "n", "labels": {"app": "web"}, "annotations": annotations}});
        values::damage(&mut object["spec"], &mut input);
        if input.flag() {
            values::damage(&mut object, &mut input);
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u", "namespace": "n", "operation": "CREATE", "object": object}})
    };
    let pod = &review["request"]["object"];
    let answer = reviewer().inject(&review);
    assert_eq!(
        answer,
        reviewer().inject(&review),
        "the same question, the same answer"
    );
    for answer in [&answer, &reviewer().validate(&review)] {
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        assert!(answer["response"]["allowed"].is_boolean());
    }
    let Some(patch) = answer["response"]["patch"].as_str() else {
        return;
    };
    assert_eq!(answer["response"]["allowed"], true);
    let patch: Value =
        serde_json::from_slice(&STANDARD.decode(patch).expect("base64")).expect("JSON");
    let injected =
        malla_apimachinery::patch::json_patch(pod, &patch).expect("our own patch applies");
    // The injector runs again when a webhook after it changed the pod.
    let mut again = review.clone();
    again["request"]["object"] = injected;
    let answer = reviewer().inject(&again);
    assert_eq!(
        answer["response"].get("patch"),
        None,
        "a pod is injected once"
    );
}
