//! Sheds load while a resource is short: one task measures, the workers read what it found.
//!
//! Invariant: where no overload manager is configured, nothing is measured and every degree stays zero.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use malla_proxy_config::overload::{ActionKind, MonitorKind, Overload, Reduction, Timer};
use malla_runtime::task::AbortOnDrop;
use tokio::sync::watch;

use crate::telemetry::stats::Registry;

/// How far each action goes now, for all workers.
#[derive(Debug)]
pub struct Pressure {
    degrees: [AtomicU32; ActionKind::ALL.len()],
    /// No connection is accepted.
    deaf: watch::Sender<bool>,
    /// What is made shorter, where something is.
    reductions: OnceLock<Vec<Reduction>>,
    /// How far.
    reduced: watch::Sender<f64>,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            degrees: Default::default(),
            deaf: watch::Sender::new(false),
            reductions: OnceLock::new(),
            reduced: watch::Sender::new(0.0),
        }
    }
}

impl Pressure {
    /// Whether to act this time: always, never, or by chance where the action goes only so far.
    pub fn acts(&self, action: ActionKind) -> bool {
        let degree = self.degree(action);
        degree > 0.0 && (degree >= 1.0 || rand::random::<f32>() < degree)
    }

    /// Tells when accepting is to stop and to go on.
    pub fn deafness(&self) -> watch::Receiver<bool> {
        self.deaf.subscribe()
    }

    /// How long a client is waited for now, where `limit` is configured.
    pub fn reduced(&self, timer: Timer, limit: Duration) -> Duration {
        let all = self.reductions.get().map(Vec::as_slice);
        let mut all = all.unwrap_or_default().iter();
        all.find(|one| one.timer == timer)
            .map_or(limit, |one| one.of(limit, *self.reduced.borrow()))
    }

    /// Waits until [`Self::reduced`] may say something else.
    pub async fn reduced_otherwise(&self) {
        if self.reductions.get().is_none() {
            return std::future::pending().await;
        }
        if self.reduced.subscribe().changed().await.is_err() {
            std::future::pending().await
        }
    }

    fn degree(&self, action: ActionKind) -> f32 {
        let slot = self.degrees.get(action as usize);
        slot.map_or(0.0, |slot| f32::from_bits(slot.load(Ordering::Relaxed)))
    }

    fn set(&self, action: ActionKind, degree: f64) {
        if let Some(slot) = self.degrees.get(action as usize) {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "a share needs no more digits"
            )]
            slot.store((degree as f32).to_bits(), Ordering::Relaxed);
        }
        if action == ActionKind::ReduceTimeouts {
            self.reduced
                .send_if_modified(|now| std::mem::replace(now, degree) != degree);
        }
        if action == ActionKind::StopAcceptingConnections {
            let deaf = degree >= 1.0;
            self.deaf
                .send_if_modified(|now| std::mem::replace(now, deaf) != deaf);
        }
    }
}

/// Measures for as long as it is kept. The first measure is taken before this returns.
pub fn manage(
    config: Overload,
    pressure: std::sync::Arc<Pressure>,
    stats: Registry,
) -> AbortOnDrop<()> {
    if !config.reductions.is_empty() {
        pressure
            .reductions
            .get_or_init(|| config.reductions.clone());
    }
    let mut measured = vec![0.0; config.monitors.len()];
    measure(&config, &mut measured, &pressure, &stats);
    AbortOnDrop::adopt(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(config.refresh);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            measure(&config, &mut measured, &pressure, &stats);
        }
    }))
}

fn measure(config: &Overload, measured: &mut [f64], pressure: &Pressure, stats: &Registry) {
    for (monitor, slot) in config.monitors.iter().zip(&mut *measured) {
        let name = format!("overload.{}", monitor.name);
        match read(&monitor.kind) {
            Some(value) => {
                *slot = value;
                stats.set(format!("{name}.pressure"), percent(value));
            }
            // What was known last counts.
            None => stats.add(format!("{name}.failed_updates"), 1),
        }
    }
    for action in &config.actions {
        let degrees = action
            .triggers
            .iter()
            .filter_map(|trigger| Some(trigger.degree(*measured.get(trigger.monitor)?)));
        let degree = degrees.fold(0.0, f64::max);
        pressure.set(action.kind, degree);
        let name = format!("overload.{}", action.kind.name());
        stats.set(format!("{name}.active"), u64::from(degree >= 1.0));
        stats.set(format!("{name}.scale_percent"), percent(degree));
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest number there is"
)]
fn percent(part: f64) -> u64 {
    (part * 100.0) as u64
}

/// The part of a resource that is in use.
#[allow(clippy::cast_precision_loss, reason = "a share needs no more digits")]
fn read(kind: &MonitorKind) -> Option<f64> {
    match kind {
        MonitorKind::FixedHeap(max) => Some(resident()? as f64 / *max as f64),
        MonitorKind::CgroupMemory(most) => {
            let (used, limit) = cgroup()?;
            let limit = most.map_or(limit, |most| most.min(limit));
            Some(used as f64 / limit as f64)
        }
        MonitorKind::File(path) => {
            let text = std::fs::read_to_string(path).ok()?;
            let value: f64 = text.trim().parse().ok()?;
            (0.0..=1.0).contains(&value).then_some(value)
        }
    }
}

/// Bytes of memory that are this process' own.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Bytes in use in the control group and their limit, by version 2 or 1.
fn cgroup() -> Option<(u64, u64)> {
    let number = |file: &str| {
        let text = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?;
        match text.trim() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        }
    };
    number("memory.current")
        .zip(number("memory.max"))
        .or_else(|| {
            number("memory/memory.usage_in_bytes").zip(number("memory/memory.limit_in_bytes"))
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use malla_proxy_config::overload::{Action, Monitor, Trigger};

    use super::*;

    #[tokio::test]
    async fn what_a_file_says_stops_and_starts_things() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        let action = |kind, from, until| Action {
            kind,
            triggers: vec![Trigger {
                monitor: 0,
                from,
                until,
            }],
        };
        let config = Overload {
            refresh: Duration::from_millis(10),
            monitors: vec![Monitor {
                name: "file".into(),
                kind: MonitorKind::File(path.clone()),
            }],
            actions: vec![
                action(ActionKind::StopAcceptingConnections, 0.8, 0.8),
                action(ActionKind::StopAcceptingRequests, 0.5, 0.9),
            ],
            max_connections: None,
            reductions: Vec::new(),
        };
        std::fs::write(&path, "0.5\n").unwrap();
        let (pressure, stats) = (Arc::<Pressure>::default(), Registry::default());
        let _measuring = manage(config, Arc::clone(&pressure), stats.clone());
        let mut deafness = pressure.deafness();
        assert!(!*deafness.borrow() && !pressure.acts(ActionKind::StopAcceptingRequests));
        std::fs::write(&path, "0.9").unwrap();
        deafness.wait_for(|deaf| *deaf).await.unwrap();
        assert!(pressure.acts(ActionKind::StopAcceptingRequests));
        assert!(!pressure.acts(ActionKind::DisableHttpKeepalive));
        assert_eq!(stats.totals()["overload.file.pressure"], 90);
        std::fs::write(&path, "much").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(*deafness.borrow(), "what was known last counts");
        assert!(stats.totals()["overload.file.failed_updates"] > 0);
        std::fs::write(&path, "0.1").unwrap();
        deafness.wait_for(|deaf| !*deaf).await.unwrap();
        assert!(!pressure.acts(ActionKind::StopAcceptingRequests));
    }
}
