//! The pod columns: what `kubectl get pods` calls the status of a pod (`printPod` of `k8s.io/kubernetes/pkg/printers`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::since;
use super::condition;
use crate::builtin::rules::{at, list, text};

/// NAME READY STATUS RESTARTS AGE, and wide: IP NODE NOMINATED NODE READINESS GATES.
pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let containers = list(pod, &["spec", "containers"]).len();
    let sidecars: Vec<&Value> = list(pod, &["spec", "initContainers"])
        .iter()
        .filter(|container| text(container, &["restartPolicy"]) == "Always")
        .collect();
    let state = State::of(pod, &sidecars);
    let gates = list(pod, &["spec", "readinessGates"]);
    let ready_gates = gates
        .iter()
        .filter(|gate| {
            condition(pod, text(gate, &["conditionType"]))
                .is_some_and(|found| text(found, &["status"]) == "True")
        })
        .count();
    let or_none = |value: &str| {
        if value.is_empty() {
            "<none>".to_owned()
        } else {
            value.to_owned()
        }
    };
    let restarts = match state.last_restart {
        Some(time) if state.restarts > 0 => {
            format!("{} ({} ago)", state.restarts, since(time, now))
        }
        _ => state.restarts.to_string(),
    };
    vec![
        text(pod, &["metadata", "name"]).into(),
        format!("{}/{}", state.ready, containers + sidecars.len()).into(),
        state.reason.into(),
        restarts.into(),
        super::cells::age(pod, now),
        or_none(text(pod, &["status", "podIP"])).into(),
        or_none(text(pod, &["spec", "nodeName"])).into(),
        or_none(text(pod, &["status", "nominatedNodeName"])).into(),
        if gates.is_empty() {
            json!("<none>")
        } else {
            format!("{ready_gates}/{}", gates.len()).into()
        },
    ]
}

struct State<'a> {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
}

fn integer(value: &Value, path: &[&str]) -> i64 {
    at(value, path).and_then(Value::as_i64).unwrap_or(0)
}

/// How a finished container is called: its reason, else its signal or exit code.
fn termination(terminated: &Value, prefix: &str) -> String {
    match (
        text(terminated, &["reason"]),
        integer(terminated, &["signal"]),
    ) {
        ("", 0) => format!("{prefix}ExitCode:{}", integer(terminated, &["exitCode"])),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

impl<'a> State<'a> {
    fn of(pod: &'a Value, sidecars: &[&Value]) -> Self {
        let phase = text(pod, &["status", "phase"]);
        let reason = match text(pod, &["status", "reason"]) {
            "" => phase,
            reason => reason,
        };
        let mut state = Self {
            reason: reason.to_owned(),
            ready: 0,
            restarts: 0,
            last_restart: None,
        };
        let gated = condition(pod, "PodScheduled")
            .is_some_and(|found| text(found, &["reason"]) == "SchedulingGated");
        if gated {
            state.reason = "SchedulingGated".to_owned();
        }
        let initialising = state.read_init(pod, sidecars);
        if !initialising
            || condition(pod, "Initialized").is_some_and(|found| text(found, &["status"]) == "True")
        {
            state.read_containers(pod);
        }
        if at(pod, &["metadata", "deletionTimestamp"]).is_some()
            && !matches!(phase, "Succeeded" | "Failed")
        {
            state.reason = if text(pod, &["status", "reason"]) == "NodeLost" {
                "Unknown"
            } else {
                "Terminating"
            }
            .to_owned();
        }
        state
    }

    /// Reads init containers up to the first that is not done; whether there is one.
    fn read_init(&mut self, pod: &'a Value, sidecars: &[&Value]) -> bool {
        let total = list(pod, &["spec", "initContainers"]).len();
        for (index, status) in list(pod, &["status", "initContainerStatuses"])
            .iter()
            .enumerate()
        {
            self.count_restarts(status);
            let sidecar = sidecars
                .iter()
                .any(|container| text(container, &["name"]) == text(status, &["name"]));
            let started = status.get("started") == Some(&Value::Bool(true));
            let terminated = at(status, &["state", "terminated"]);
            if terminated.is_some_and(|terminated| integer(terminated, &["exitCode"]) == 0) {
                continue;
            }
            if sidecar && started {
                self.ready += usize::from(status.get("ready") == Some(&Value::Bool(true)));
                continue;
            }
            let waiting = text(status, &["state", "waiting", "reason"]);
            self.reason = match terminated {
                Some(terminated) => termination(terminated, "Init:"),
                None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
                None => format!("Init:{index}/{total}"),
            };
            return true;
        }
        false
    }

    fn read_containers(&mut self, pod: &'a Value) {
        let mut running = false;
        for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
            self.count_restarts(status);
            let waiting = text(status, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = at(status, &["state", "terminated"]) {
                self.reason = termination(terminated, "");
            } else if status.get("ready") == Some(&Value::Bool(true))
                && at(status, &["state", "running"]).is_some()
            {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready =
                condition(pod, "Ready").is_some_and(|found| text(found, &["status"]) == "True");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts = self
            .restarts
            .saturating_add(integer(status, &["restartCount"]));
        let finished = text(status, &["lastState", "terminated", "finishedAt"]);
        if !finished.is_empty() && self.last_restart.is_none_or(|last| last < finished) {
            self.last_restart = Some(finished);
        }
    }
}
