//! Health checks that ask this proxy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use malla_proxy_config::http_filter::HealthCheck;
use tokio::time::Instant;

use super::Note;
use crate::http::error::{ProxyError, Verdict};
use crate::http::exchange::Exchange;
use crate::telemetry::flags::Flag;
use crate::upstream::Upstreams;

const CHECKED: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");

/// The application's last answer: milliseconds since `origin` in the upper bits, then its status, then whether it said
/// that it is degraded.
#[derive(Debug)]
struct Remembered {
    origin: Instant,
    last: AtomicU64,
}

/// Long enough: two hundred years.
const MOST_MILLIS: u64 = (1 << 43) - 1;

impl Remembered {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn keep(&self, status: StatusCode, degraded: bool) {
        let millis = self
            .origin
            .elapsed()
            .as_millis()
            .min(u128::from(MOST_MILLIS)) as u64;
        let packed = millis << 20 | u64::from(status.as_u16()) << 1 | u64::from(degraded);
        self.last.store(packed, Ordering::Relaxed);
    }

    /// Not older than `limit`.
    fn recent(&self, limit: Duration) -> Option<(StatusCode, bool)> {
        let packed = self.last.load(Ordering::Relaxed);
        let at = self.origin + Duration::from_millis(packed >> 20);
        let status = u16::try_from((packed >> 1) & 0x3ff).ok()?;
        let status = StatusCode::from_u16(status).ok()?;
        (at.elapsed() < limit).then_some((status, packed & 1 == 1))
    }
}

/// Answers a health check, or notes that the application does.
pub(super) async fn check<U: Upstreams>(
    x: &mut Exchange<U>,
    index: usize,
    config: &HealthCheck,
) -> Result<(), ProxyError> {
    let view = x.view();
    if !config.headers.iter().all(|matcher| matcher.is_match(&view)) {
        return Ok(());
    }
    x.record().health_check = true;
    let failing = x.cx.worker.process.is_failing();
    let remembered = config.cache.and_then(|limit| {
        let kept: &Remembered = config.held.get_or_make(Remembered::new)?;
        kept.recent(limit)
    });
    let (status, degraded, details) = match remembered {
        _ if failing => (
            StatusCode::SERVICE_UNAVAILABLE,
            false,
            "health_check_failed",
        ),
        Some((status, degraded)) => (status, degraded, "health_check_cached"),
        None if config.pass_through => {
            x.notes.push((index, Note::HealthCheck));
            return Ok(());
        }
        None if config.clusters.is_empty() => (StatusCode::OK, false, "health_check_ok"),
        None => of_clusters(x, config),
    };
    x.notes.push((index, Note::HealthCheck));
    // What it brings with it is of no interest, but the connection goes on after it.
    if let Some(body) = &mut x.body {
        while let Some(Ok(_)) = body.frame().await {}
    }
    let verdict = Verdict::new(status, details);
    let mut verdict = match status.is_success() {
        true => verdict,
        false => verdict.flag(Flag::FailedLocalHealthCheck),
    };
    if degraded {
        verdict
            .headers
            .push((DEGRADED, HeaderValue::from_static("")));
    }
    Err(ProxyError::Filter(Box::new(verdict)))
}

/// Healthy while enough of each cluster is.
fn of_clusters<U: Upstreams>(
    x: &Exchange<U>,
    config: &HealthCheck,
) -> (StatusCode, bool, &'static str) {
    for (name, percent) in &config.clusters {
        let Some(handle) = x.cx.worker.upstreams.cluster(&x.snapshot, name) else {
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                false,
                "health_check_failed_no_cluster_found",
            );
        };
        let (healthy, total) = crate::upstream::ClusterHandle::membership(&handle);
        if total == 0 && *percent == 0.0 {
            continue;
        }
        let details = match total {
            0 => "health_check_failed_cluster_empty",
            _ if (healthy as f64) < total as f64 * percent / 100.0 => {
                "health_check_failed_cluster_unhealthy"
            }
            _ => continue,
        };
        return (StatusCode::SERVICE_UNAVAILABLE, false, details);
    }
    (StatusCode::OK, false, "health_check_ok_cluster_healthy")
}

/// Marks answers: those to health checks, and all of a proxy that is failing.
pub(super) fn respond<U: Upstreams>(
    x: &Exchange<U>,
    index: usize,
    config: &HealthCheck,
    headers: &mut HeaderMap,
) {
    if matches!(x.note(index), Some(Note::HealthCheck)) {
        if let Some(status) = x
            .observer
            .record()
            .status
            .filter(|_| config.cache.is_some())
            && let Some(kept) = config.held.get_or_make(Remembered::new)
        {
            kept.keep(status, headers.contains_key(&DEGRADED));
        }
        let cluster = &x.cx.worker.process.node.cluster;
        if let Ok(value) = HeaderValue::from_str(cluster) {
            headers.insert(CHECKED, value);
        }
    } else if x.cx.worker.process.is_failing() {
        headers.insert(FAIL, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::Remembered;

    #[test]
    fn an_answer_is_remembered_for_a_time() {
        let hour = Duration::from_secs(3600);
        let kept = Remembered::new();
        assert_eq!(kept.recent(hour), None);
        kept.keep(StatusCode::SERVICE_UNAVAILABLE, true);
        let unhealthy = Some((StatusCode::SERVICE_UNAVAILABLE, true));
        assert_eq!(kept.recent(hour), unhealthy);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(kept.recent(Duration::from_millis(1)), None);
    }
}
