//! Startup, readiness and liveness probes.
//!
//! Probes go from the node to the pod's address, as the kubelet's do, so they meet the pod's
//! redirection rules. Until a container is first found ready (or started), it is asked in quick
//! succession instead of once a period: what is up is used at once. Failures still count once a
//! period only, so thresholds mean what they say.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::Instant;

use super::container::Running;
use super::pod::PodShared;
use super::{NodeShared, commands, grpc, http};

/// Pause between the quick first questions, and how long they go on.
const EAGER_PAUSE: Duration = Duration::from_millis(100);
const EAGER_FOR: Duration = Duration::from_secs(10);

/// A container that must be restarted.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) probe: &'static str,
    /// The probe's own grace period.
    pub(super) grace: Option<Duration>,
}

/// A probe's times and thresholds.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

impl Rhythm {
    fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            let set = value.and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(set.filter(|value| *value > 0).unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            let set = value.and_then(|value| u32::try_from(value).ok());
            set.filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// Asks what a container's probes ask.
struct Asker<'a, T> {
    node: &'a NodeShared,
    pod: &'a PodShared,
    container: &'a Container,
    running: &'a Running,
    tell: T,
}

/// Probes a running container; returns when it must be restarted.
pub(super) async fn observe(
    node: &NodeShared,
    pod: &PodShared,
    container: &Container,
    running: &Running,
    tell: impl Fn(String),
) -> Failed {
    let asker = Asker {
        node,
        pod,
        container,
        running,
        tell,
    };
    if let Some(probe) = &container.startup_probe {
        if let Err(failed) = asker.until_started(probe).await {
            return failed;
        }
        pod.board
            .change(&container.name, |record| record.started = true);
    }
    tokio::select! {
        never = asker.watch_readiness() => match never {},
        failed = asker.watch_liveness() => failed,
    }
}

impl<T: Fn(String)> Asker<'_, T> {
    async fn until_started(&self, probe: &Probe) -> Result<(), Failed> {
        let rhythm = Rhythm::of(probe);
        tokio::time::sleep(rhythm.delay).await;
        let begun = Instant::now();
        let mut failures = 0;
        let mut counted = begun;
        loop {
            let Err(error) = self.ask(probe, rhythm.timeout).await else {
                return Ok(());
            };
            if counted.elapsed() >= rhythm.period || failures == 0 {
                counted = Instant::now();
                failures += 1;
                // The first is expected: nothing starts at once.
                if failures > 1 {
                    (self.tell)(format!("Startup probe failed: {error}"));
                }
            }
            if failures >= rhythm.failures && begun.elapsed() >= rhythm.period {
                return Err(failed("startup probe", probe));
            }
            tokio::time::sleep(eager_pause(begun, rhythm.period)).await;
        }
    }

    /// Keeps the record's `ready`; never ends.
    async fn watch_readiness(&self) -> Infallible {
        let ready = |ready: bool| {
            let board = &self.pod.board;
            board.change(&self.container.name, |record| record.ready = ready);
        };
        let Some(probe) = &self.container.readiness_probe else {
            ready(true);
            return std::future::pending().await;
        };
        let rhythm = Rhythm::of(probe);
        tokio::time::sleep(rhythm.delay).await;
        let begun = Instant::now();
        let (mut good, mut bad, mut ever) = (0, 0, false);
        let mut told = begun;
        loop {
            match self.ask(probe, rhythm.timeout).await {
                Ok(()) => {
                    (good, bad) = (good + 1, 0);
                    if good >= rhythm.successes {
                        ready(true);
                        ever = true;
                    }
                }
                Err(error) => {
                    (good, bad) = (0, bad + 1);
                    if ever || told.elapsed() >= rhythm.period {
                        told = Instant::now();
                        (self.tell)(format!("Readiness probe failed: {error}"));
                    }
                    if bad >= rhythm.failures {
                        ready(false);
                    }
                }
            }
            let pause = if ever {
                rhythm.period
            } else {
                eager_pause(begun, rhythm.period)
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn watch_liveness(&self) -> Failed {
        let Some(probe) = &self.container.liveness_probe else {
            return std::future::pending().await;
        };
        let rhythm = Rhythm::of(probe);
        tokio::time::sleep(rhythm.delay.max(rhythm.period)).await;
        let mut bad = 0;
        loop {
            match self.ask(probe, rhythm.timeout).await {
                Ok(()) => bad = 0,
                Err(error) => {
                    bad += 1;
                    (self.tell)(format!("Liveness probe failed: {error}"));
                    if bad >= rhythm.failures {
                        return failed("liveness probe", probe);
                    }
                }
            }
            tokio::time::sleep(rhythm.period).await;
        }
    }

    async fn ask(&self, probe: &Probe, timeout: Duration) -> Result<(), String> {
        let asked = tokio::time::timeout(timeout, self.ask_once(probe)).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    async fn ask_once(&self, probe: &Probe) -> Result<(), String> {
        if let Some(exec) = &probe.exec {
            let argv = exec.command.as_deref().unwrap_or_default();
            return Box::pin(commands::run(&self.node.spawner, self.running, argv)).await;
        }
        let Some(network) = self.pod.network() else {
            return Err("the pod has no network".to_owned());
        };
        let node = self.node.network.namespace();
        if let Some(get) = &probe.http_get {
            let status = Box::pin(http::get(node, network.socket(0), self.container, get)).await;
            return match status {
                Ok(status) if status.is_success() || status.is_redirection() => Ok(()),
                Ok(status) => Err(format!(
                    "HTTP probe failed with statuscode: {}",
                    status.as_u16()
                )),
                Err(error) => Err(error.to_string()),
            };
        }
        let to = |host: Option<&String>, port: &IntOrString| {
            let port = http::port(self.container, port).map_err(|error| error.to_string())?;
            http::target(network.socket(0), host, port).map_err(|error| error.to_string())
        };
        if let Some(tcp) = &probe.tcp_socket {
            let to = to(tcp.host.as_ref(), &tcp.port)?;
            let connected = node.connect(to).await;
            return connected
                .map(drop)
                .map_err(|error| format!("dial tcp {to}: {error}"));
        }
        if let Some(check) = &probe.grpc {
            let to = to(None, &IntOrString::Int(check.port))?;
            let service = check.service.as_deref().unwrap_or_default();
            return Box::pin(grpc::check(node, to, service)).await;
        }
        Ok(())
    }
}

fn eager_pause(begun: Instant, period: Duration) -> Duration {
    if begun.elapsed() < EAGER_FOR {
        EAGER_PAUSE.min(period)
    } else {
        period
    }
}

fn failed(which: &'static str, probe: &Probe) -> Failed {
    let seconds = probe.termination_grace_period_seconds;
    Failed {
        probe: which,
        grace: seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs),
    }
}
