//! What the process itself can tell: memory, and how busy its workers are.
use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, Answer};

/// `/memory`, in the fields of `envoy.admin.v3.Memory`: what the kernel counts, as far as there is an equivalent.
pub(super) fn memory() -> Answer {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.unwrap_or(0).saturating_mul(1024)
    };
    super::json(&json!({
        "allocated": bytes("RssAnon:").to_string(),
        "heap_size": bytes("VmData:").to_string(),
        "total_physical_bytes": bytes("VmRSS:").to_string(),
    }))
}

/// `/contention`: there are no locks to wait for where requests pass, so it is told how busy each worker is instead.
pub(super) fn workers(admin: &Admin) -> Answer {
    let uptime = admin.started.elapsed().unwrap_or(Duration::ZERO);
    let runtimes = admin.shared.runtimes();
    let workers: Vec<Value> = runtimes
        .iter()
        .map(|(index, handle)| {
            let metrics = handle.metrics();
            let busy = metrics.worker_total_busy_duration(0);
            let share = busy.as_secs_f64() / uptime.as_secs_f64().max(f64::EPSILON);
            json!({
                "worker": format!("worker-{index}"),
                "busy": format!("{:.3}s", busy.as_secs_f64()),
                "busy_share": (share.min(1.0) * 1000.0).round() / 1000.0,
                "waits": metrics.worker_park_count(0),
                "tasks": metrics.num_alive_tasks(),
            })
        })
        .collect();
    super::json(&json!({ "uptime": format!("{:.3}s", uptime.as_secs_f64()), "workers": workers }))
}
