//! One container: its start, its restarts, its end.
//!
//! A supervisor is one task per container. Invariants: at most one run at a time; a run that ends
//! always leaves its exit on the board before another begins; asked to stop, a supervisor ends
//! within the deadline (plus what the kernel needs to kill).

mod start;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::start::{Running, StartError};
use super::board::{Ended, State};
use super::pod::PodShared;
use super::probe::{self, Failed};
use super::stop::Stop;
use super::{NodeShared, hooks};
use crate::events::Severity;
use crate::process::ExitStatus;

/// First and longest pause between restarts, and how long a run must last to be forgiven: a person
/// waits here, so the pauses are those of Kubernetes' ReduceDefaultCrashLoopBackOffDecay.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// Least time a stopped container gets after its preStop hook used up the grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// A killed container's logs end with it; this bounds the wait for that.
const LOGS_END: Duration = Duration::from_secs(2);

/// What part a container has in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container that goes on running.
    Sidecar,
    Main,
}

/// Keeps one container as it should be.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) node: Arc<NodeShared>,
    pub(super) pod: Arc<PodShared>,
    pub(super) container: Container,
    pub(super) role: Role,
    pub(super) stop: Stop,
}

/// How one attempt to run the container went.
enum Attempt {
    NotStarted(StartError),
    Ended { code: i32, lasted: Duration },
}

impl Supervisor {
    /// Runs the container until it is not to be started again. `launched` fires when the next
    /// container may start: after postStart, or when the first attempt has failed.
    pub(super) async fn run(self, launched: oneshot::Sender<()>) {
        let mut launched = Some(launched);
        let mut pause = Duration::ZERO;
        let known = self.pod.board.get(self.name());
        let mut run = known.map_or(0, |record| record.restarts);
        while self.stop.deadline().is_none() {
            let attempt = self.attempt(run, &mut launched).await;
            drop(launched.take());
            if self.stop.deadline().is_some() {
                break;
            }
            match attempt {
                Attempt::NotStarted(problem) => {
                    pause = next_pause(pause.max(FIRST_PAUSE));
                    self.wait_for_cure(&problem, pause).await;
                }
                Attempt::Ended { code, lasted } => {
                    if !self.restarts(code) {
                        break;
                    }
                    if lasted >= FORGIVEN_AFTER {
                        pause = Duration::ZERO;
                    }
                    self.back_off(pause).await;
                    pause = next_pause(pause);
                    run = run.saturating_add(1);
                }
            }
        }
        self.pod
            .board
            .change(self.name(), |record| record.settled = true);
    }

    fn name(&self) -> &str {
        &self.container.name
    }

    fn event(&self, severity: Severity, reason: &'static str, message: impl Into<String>) {
        let field = match self.role {
            Role::Init | Role::Sidecar => format!("spec.initContainers{{{}}}", self.name()),
            Role::Main => format!("spec.containers{{{}}}", self.name()),
        };
        let subject = self.pod.subject.clone().at(field);
        self.node
            .events
            .record("kubelet", severity, subject, reason, message);
    }

    fn restarts(&self, code: i32) -> bool {
        let policy = self.pod.restart_policy();
        match self.role {
            Role::Sidecar => true,
            Role::Init => code != 0 && policy != "Never",
            Role::Main => policy == "Always" || (policy == "OnFailure" && code != 0),
        }
    }

    /// Starts the container and stays with it to its end.
    async fn attempt(&self, run: i32, launched: &mut Option<oneshot::Sender<()>>) -> Attempt {
        let begun = Instant::now();
        let started = Box::pin(start::start(&self.node, &self.pod, &self.container, run)).await;
        let running = match started {
            Ok(running) => Arc::new(running),
            // The image is there, the command is not: that is a run that failed.
            Err(StartError::Run(message)) => {
                self.event(Severity::Warning, "Failed", format!("Error: {message}"));
                self.pod
                    .board
                    .change(self.name(), |record| record.restarts = run);
                self.record_end(None, ExitStatus::Code(128), "StartError", message);
                let lasted = Duration::ZERO;
                return Attempt::Ended { code: 128, lasted };
            }
            Err(problem) => return Attempt::NotStarted(problem),
        };
        self.event(
            Severity::Normal,
            "Created",
            format!("Created container: {}", self.name()),
        );
        self.event(
            Severity::Normal,
            "Started",
            format!("Started container {}", self.name()),
        );
        self.pod
            .set_running(self.name(), Some(Arc::clone(&running)));
        self.pod.board.change(self.name(), |record| {
            if let State::Ended(ended) = &record.state {
                record.last = Some(ended.clone());
            }
            record.restarts = run;
            record.started = self.container.startup_probe.is_none();
            record.ready = false;
            record.state = State::Running {
                since: running.since,
                id: running.id.clone(),
            };
        });
        let exit = self.stay(&running, launched).await;
        self.pod.set_running(self.name(), None);
        let _still_written = tokio::time::timeout(LOGS_END, running.log.closed()).await;
        let reason = if exit.code() == 0 {
            "Completed"
        } else {
            "Error"
        };
        let message = start::termination_message(&self.pod, &self.container, &running, exit);
        self.record_end(Some(&running), exit, reason, message);
        Attempt::Ended {
            code: exit.code(),
            lasted: begun.elapsed(),
        }
    }

    fn record_end(
        &self,
        running: Option<&Running>,
        exit: ExitStatus,
        reason: &'static str,
        message: String,
    ) {
        let ended = Ended {
            exit,
            reason,
            message,
            started: running.map(|running| running.since),
            finished: Timestamp::now(),
            id: running.map_or_else(start::new_id, |running| running.id.clone()),
        };
        self.pod.board.change(self.name(), |record| {
            if let State::Ended(before) = &record.state {
                record.last = Some(before.clone());
            }
            record.started = false;
            record.ready = false;
            record.state = State::Ended(ended);
        });
    }

    /// Waits for the end of a run, whatever brings it about.
    async fn stay(
        &self,
        running: &Arc<Running>,
        launched: &mut Option<oneshot::Sender<()>>,
    ) -> ExitStatus {
        let hook = async {
            let lifecycle = self.container.lifecycle.as_ref();
            if let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) {
                let done = hooks::run(&self.node, &self.pod, &self.container, running, handler);
                if let Err(error) = done.await {
                    return error;
                }
            }
            if let Some(launched) = launched.take() {
                let _nobody_waits = launched.send(());
            }
            std::future::pending().await
        };
        let probes = probe::observe(&self.node, &self.pod, &self.container, running, |message| {
            self.event(Severity::Warning, "Unhealthy", message);
        });
        tokio::select! {
            biased; // An end that came by itself must not be told as one we brought about.
            exit = running.process.wait() => exit,
            () = self.stop.requested() => self.terminate(running, &self.stop, true).await,
            error = hook => {
                self.event(Severity::Warning, "FailedPostStartHook", error);
                self.kill_unwell(running, "FailedPostStartHook", None).await
            }
            Failed { probe, grace } = probes => self.kill_unwell(running, probe, grace).await,
        }
    }

    async fn kill_unwell(
        &self,
        running: &Running,
        why: &'static str,
        grace: Option<Duration>,
    ) -> ExitStatus {
        let name = self.name();
        let message = format!("Container {name} failed {why}, will be restarted");
        self.event(Severity::Normal, "Killing", message);
        let stop = Stop::new();
        stop.request(Instant::now() + grace.unwrap_or_else(|| self.pod.grace()));
        // The pod's own end may bring the deadline nearer.
        tokio::select! {
            exit = self.terminate(running, &stop, false) => exit,
            () = self.stop.requested() => self.terminate(running, &self.stop, false).await,
        }
    }

    /// preStop, then the stop signal, then SIGKILL at the deadline.
    async fn terminate(&self, running: &Running, stop: &Stop, tell: bool) -> ExitStatus {
        if tell {
            let message = format!("Stopping container {}", self.name());
            self.event(Severity::Normal, "Killing", message);
        }
        let lifecycle = self.container.lifecycle.as_ref();
        let mut least = Instant::now();
        if let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
            let hook = hooks::run(&self.node, &self.pod, &self.container, running, handler);
            tokio::select! {
                exit = running.process.wait() => return exit,
                () = stop.passed() => {}
                done = hook => if let Err(error) = done {
                    self.event(Severity::Warning, "FailedPreStopHook", error);
                },
            }
            least = Instant::now() + LEAST_GRACE;
        }
        let wished = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.as_deref());
        let signal = wished
            .and_then(|name| name.parse().ok())
            .unwrap_or(Signal::SIGTERM);
        if let Err(error) = running.process.signal(signal) {
            tracing::warn!(%error, container = self.name(), "a container could not be signalled");
        }
        tokio::select! {
            exit = running.process.wait() => return exit,
            () = async { tokio::join!(stop.passed(), tokio::time::sleep_until(least)); } => {}
        }
        if let Err(error) = running.process.kill() {
            tracing::warn!(%error, container = self.name(), "a container could not be killed");
        }
        running.process.wait().await
    }

    /// Shows why the container does not start, and waits until trying again makes sense.
    async fn wait_for_cure(&self, problem: &StartError, pause: Duration) {
        let mut images = self.node.images.changes();
        let mut config = self.node.config_changes.subscribe();
        let (reason, waiting) = problem.reasons();
        let message = problem.to_string();
        self.event(Severity::Warning, "Failed", format!("Error: {message}"));
        let show = |reason: &'static str| {
            self.pod.board.change(self.name(), |record| {
                if let State::Ended(ended) = &record.state {
                    record.last = Some(ended.clone());
                }
                record.state = State::Waiting {
                    reason,
                    message: message.clone(),
                };
            });
        };
        show(reason);
        let soon = tokio::time::sleep(FIRST_PAUSE);
        let later = tokio::time::sleep(pause);
        let cured = async {
            match problem {
                StartError::Image(_) => drop(images.changed().await),
                _ => drop(config.recv().await),
            }
        };
        tokio::pin!(cured);
        tokio::select! {
            () = self.stop.requested() => return,
            () = &mut cured => return,
            () = soon => show(waiting),
        }
        tokio::select! {
            () = self.stop.requested() => {}
            () = cured => {}
            () = later => {}
        }
    }

    /// Waits before the next run.
    async fn back_off(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        let (name, pod) = (self.name(), &self.pod.key);
        let message = format!("back-off {pause:?} restarting failed container={name} pod={pod}");
        let told = format!("Back-off restarting failed container {name} in pod {pod}");
        self.event(Severity::Warning, "BackOff", told);
        self.pod.board.change(name, |record| {
            if let State::Ended(ended) = &record.state {
                record.last = Some(ended.clone());
            }
            record.state = State::Waiting {
                reason: "CrashLoopBackOff",
                message,
            };
        });
        tokio::select! {
            () = self.stop.requested() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn next_pause(pause: Duration) -> Duration {
    pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}
