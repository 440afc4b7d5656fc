//! A pod's status from what is known of its containers.
//!
//! Pure. Conditions of others (readiness gates) are kept as they are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Map, Value, json};

use super::board::{Ended, Record, State};
use crate::events::seconds;
use crate::process::ExitStatus;

/// Conditions the node writes.
const OWN: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// The node's view of a pod.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) pod: &'a Pod,
    pub(super) records: &'a BTreeMap<String, Record>,
    /// Empty until the pod has a network.
    pub(super) pod_ip: &'a str,
    pub(super) host_ip: &'a str,
    pub(super) begun: Timestamp,
    pub(super) initialized: bool,
    /// The pod was ended for this reason.
    pub(super) failure: Option<(&'static str, &'a str)>,
    pub(super) now: Timestamp,
}

/// Init containers that go on running (native sidecars).
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Computes `status`; `before` is the status last computed or stored.
pub(super) fn compute(view: &View<'_>, before: &Value) -> Value {
    let spec = view.pod.spec.clone().unwrap_or_default();
    let phase = phase(view, &spec);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let mut status = json!({
        "phase": phase,
        "observedGeneration": view.pod.metadata.generation,
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "startTime": seconds(view.begun),
        "conditions": conditions(view, &spec, finished, before),
        "containerStatuses": statuses(view, &spec.containers),
    });
    if let Some(inits) = spec
        .init_containers
        .as_ref()
        .filter(|inits| !inits.is_empty())
    {
        status["initContainerStatuses"] = statuses(view, inits);
    }
    if !view.pod_ip.is_empty() {
        status["podIP"] = json!(view.pod_ip);
        status["podIPs"] = json!([{"ip": view.pod_ip}]);
    }
    if let Some((reason, message)) = view.failure {
        status["reason"] = json!(reason);
        status["message"] = json!(message);
    }
    status
}

fn phase(view: &View<'_>, spec: &PodSpec) -> &'static str {
    if view.failure.is_some() {
        return "Failed";
    }
    let record = |container: &Container| view.records.get(&container.name);
    let failed_init = spec.init_containers.iter().flatten().any(|container| {
        record(container).is_some_and(|record| record.settled && !record.succeeded())
            && !is_sidecar(container)
    });
    if failed_init {
        return "Failed";
    }
    let mains: Vec<&Record> = spec.containers.iter().filter_map(record).collect();
    let never_ran =
        |record: &&Record| record.last.is_none() && matches!(record.state, State::Waiting { .. });
    if !view.initialized || mains.iter().any(never_ran) {
        return "Pending";
    }
    if mains.iter().all(|record| record.settled) {
        let all_good = mains.iter().all(|record| record.succeeded());
        return if all_good { "Succeeded" } else { "Failed" };
    }
    "Running"
}

fn conditions(view: &View<'_>, spec: &PodSpec, finished: bool, before: &Value) -> Value {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|one| is_sidecar(one));
    let serving = spec.containers.iter().chain(sidecars);
    let unready: Vec<&str> = serving
        .filter(|container| {
            let record = view.records.get(&container.name);
            !record.is_some_and(|record| record.is_running() && record.ready && record.started)
        })
        .map(|container| container.name.as_str())
        .collect();
    let not_ready = || {
        if finished {
            return ("PodCompleted", String::new());
        }
        let names = unready.join(" ");
        (
            "ContainersNotReady",
            format!("containers with unready status: [{names}]"),
        )
    };
    let containers_ready = if unready.is_empty() {
        None
    } else {
        Some(not_ready())
    };
    let stored = view
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let gate_open = |name: &str| {
        let mut all = stored.into_iter().flatten();
        all.any(|condition| condition.type_ == name && condition.status == "True")
    };
    let mut gates = spec.readiness_gates.iter().flatten();
    let closed = gates.find(|gate| !gate_open(&gate.condition_type));
    let ready = containers_ready.clone().or_else(|| {
        let name = &closed?.condition_type;
        let message = format!("corresponding condition of pod readiness gate \"{name}\" does not exist or is not True.");
        Some(("ReadinessGatesNotReady", message))
    });
    let initialized = (!view.initialized).then(|| {
        let waiting = spec.init_containers.iter().flatten().filter(|container| {
            let done =
                |record: &Record| record.succeeded() || (is_sidecar(container) && record.started);
            !view.records.get(&container.name).is_some_and(done)
        });
        let names: Vec<&str> = waiting.map(|container| container.name.as_str()).collect();
        let message = format!("containers with incomplete status: [{}]", names.join(" "));
        ("ContainersNotInitialized", message)
    });
    let sandbox = view.pod_ip.is_empty().then(|| ("", String::new()));
    let verdicts = [sandbox, initialized, ready, containers_ready, None];
    let mut conditions: Vec<Value> = OWN
        .iter()
        .zip(verdicts)
        .map(|(kind, problem)| condition(kind, problem, before, view))
        .collect();
    let others = stored.into_iter().flatten();
    conditions.extend(
        others
            .filter(|other| !OWN.contains(&other.type_.as_str()))
            .map(|other| json!(other)),
    );
    Value::Array(conditions)
}

/// A condition that holds unless there is a problem; its time is that of its last turn.
fn condition(
    kind: &str,
    problem: Option<(&'static str, String)>,
    before: &Value,
    view: &View<'_>,
) -> Value {
    let holds = if problem.is_none() { "True" } else { "False" };
    let known = before.pointer("/conditions").and_then(Value::as_array);
    let known = known
        .into_iter()
        .flatten()
        .find(|known| known["type"] == kind);
    let since = known
        .filter(|known| known["status"] == holds)
        .and_then(|known| known["lastTransitionTime"].as_str())
        .map_or_else(|| seconds(view.now), str::to_owned);
    let mut condition = Map::new();
    condition.insert("type".to_owned(), json!(kind));
    condition.insert("status".to_owned(), json!(holds));
    condition.insert("lastProbeTime".to_owned(), Value::Null);
    condition.insert("lastTransitionTime".to_owned(), json!(since));
    let (reason, message) = problem.unwrap_or_default();
    for (field, text) in [("reason", reason), ("message", message.as_str())] {
        if !text.is_empty() {
            condition.insert(field.to_owned(), json!(text));
        }
    }
    if let Some(generation) = view.pod.metadata.generation {
        condition.insert("observedGeneration".to_owned(), json!(generation));
    }
    Value::Object(condition)
}

fn statuses(view: &View<'_>, containers: &[Container]) -> Value {
    let status = |container: &Container| {
        let record = view.records.get(&container.name)?;
        let image = container.image.clone().unwrap_or_default();
        let serves = record.is_running() && record.started && record.ready;
        let mut status = json!({
            "name": container.name,
            "state": state(&record.state),
            "lastState": record.last.as_ref().map_or_else(|| json!({}), ended),
            "ready": serves || (record.succeeded() && !is_sidecar(container)),
            "restartCount": record.restarts,
            "image": image,
            "imageID": format!("malla-local://{image}"),
            "started": record.is_running() && record.started,
        });
        let id = match &record.state {
            State::Running { id, .. } => Some(id),
            State::Ended(ended) => Some(&ended.id),
            State::Waiting { .. } => record.last.as_ref().map(|last| &last.id),
        };
        if let Some(id) = id {
            status["containerID"] = json!(container_id(id));
        }
        Some(status)
    };
    containers.iter().filter_map(status).collect()
}

fn container_id(id: &str) -> String {
    format!("malla://{id}")
}

fn state(state: &State) -> Value {
    match state {
        State::Waiting { reason, message } if message.is_empty() => {
            json!({"waiting": {"reason": reason}})
        }
        State::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}})
        }
        State::Running { since, .. } => json!({"running": {"startedAt": seconds(*since)}}),
        State::Ended(one) => ended(one),
    }
}

fn ended(ended: &Ended) -> Value {
    let started = ended.started.unwrap_or(ended.finished);
    let mut terminated = json!({
        "exitCode": ended.exit.code(),
        "reason": ended.reason,
        "startedAt": seconds(started),
        "finishedAt": seconds(ended.finished),
        "containerID": container_id(&ended.id),
    });
    if let ExitStatus::Signal(signal) = ended.exit {
        terminated["signal"] = json!(signal);
    }
    if !ended.message.is_empty() {
        terminated["message"] = json!(ended.message);
    }
    json!({"terminated": terminated})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::{View, compute};
    use crate::node::board::{Board, Ended, Record, State};
    use crate::process::ExitStatus;

    type Change = (&'static str, fn(&mut Record));

    fn records(changes: &[Change]) -> BTreeMap<String, Record> {
        let board = Board::new(
            changes
                .iter()
                .map(|(name, _)| (*name, "ContainerCreating", 0)),
        );
        for (name, change) in changes {
            board.change(name, change);
        }
        board.all()
    }

    fn runs(record: &mut Record) {
        record.state = State::Running {
            since: Timestamp::UNIX_EPOCH,
            id: "x".to_owned(),
        };
        record.started = true;
    }

    fn serves(record: &mut Record) {
        runs(record);
        record.ready = true;
    }

    fn ends(record: &mut Record, code: i32) {
        record.settled = true;
        record.state = State::Ended(Ended {
            exit: ExitStatus::Code(code),
            reason: "Completed",
            message: String::new(),
            started: None,
            finished: Timestamp::UNIX_EPOCH,
            id: "x".to_owned(),
        });
    }

    /// Phase and the Ready condition of a pod with containers `app` and, if named, `side`.
    fn check(changes: &[Change], initialized: bool) -> (String, String) {
        let spec = json!({"containers": [{"name": "app"}],
            "initContainers": changes.iter().filter(|(n, _)| *n != "app")
                .map(|(n, _)| json!({"name": n, "restartPolicy": "Always"})).collect::<Vec<_>>()});
        let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let records = records(changes);
        let view = View {
            pod: &pod,
            records: &records,
            pod_ip: "10.0.0.1",
            host_ip: "10.0.0.2",
            begun: Timestamp::UNIX_EPOCH,
            initialized,
            failure: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let status = compute(&view, &Value::Null);
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "Ready");
        let ready = ready.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&status["phase"]),
            format!("{} {}", text(&ready["status"]), text(&ready["reason"])),
        )
    }

    #[test]
    fn phase_and_readiness_follow_the_containers() {
        let want = |phase: &str, ready: &str| (phase.to_owned(), ready.to_owned());
        let not_ready = "False ContainersNotReady";
        assert_eq!(check(&[("app", |_| {})], true), want("Pending", not_ready));
        assert_eq!(check(&[("app", runs)], true), want("Running", not_ready));
        assert_eq!(check(&[("app", serves)], true), want("Running", "True "));
        assert_eq!(check(&[("app", serves)], false), want("Pending", "True "));
        assert_eq!(
            check(&[("app", serves), ("side", runs)], true),
            want("Running", not_ready)
        );
        let completed = "False PodCompleted";
        assert_eq!(
            check(&[("app", |r| ends(r, 0))], true),
            want("Succeeded", completed)
        );
        assert_eq!(
            check(&[("app", |r| ends(r, 1))], true),
            want("Failed", completed)
        );
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_turn() {
        let pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        let records = BTreeMap::new();
        let mut view = View {
            pod: &pod,
            records: &records,
            pod_ip: "",
            host_ip: "",
            begun: Timestamp::UNIX_EPOCH,
            initialized: true,
            failure: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let first = compute(&view, &Value::Null);
        view.now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(1);
        view.pod_ip = "10.0.0.1";
        let second = compute(&view, &first);
        let times = |status: &Value| -> Vec<String> {
            let all = status["conditions"].as_array().unwrap();
            all.iter()
                .map(|one| one["lastTransitionTime"].as_str().unwrap()[11..16].to_owned())
                .collect()
        };
        assert_eq!(
            times(&second),
            ["01:00", "00:00", "00:00", "00:00", "00:00"]
        );
    }
}
