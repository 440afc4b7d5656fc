//! Envoy's admin port: is it ready, what has it counted, drain.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::future::BoxFuture;
use http::Method;

use crate::http::{Call, successful};
use crate::status::Proxy;

/// The stats that tell whether Envoy can serve, as Istio's agent reads them.
const READY_STATS: &str = "/stats?filter=^(server.state|listener_manager.workers_started|cluster_manager.cds.update_success|listener_manager.lds.update_success)$";

/// Envoy's admin port on the loopback.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self {
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        }
    }

    async fn call(&self, method: Method, path: &str) -> Result<String, String> {
        let answer = Call::new(self.address, method, path).send().await?;
        Ok(String::from_utf8_lossy(&successful(answer)?).into_owned())
    }

    /// Listeners finish what they have and ask clients to go elsewhere.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub async fn drain(&self) -> Result<(), String> {
        let path = "/drain_listeners?graceful&skip_exit";
        self.call(Method::POST, path).await.map(|_| ())
    }

    /// Connections under way, without the agent's and the operators' own listeners.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub async fn active_connections(&self) -> Result<u64, String> {
        let path = "/stats?filter=^http.*downstream_cx_active$|^tcp.*downstream_cx_active$";
        let text = self.call(Method::GET, path).await?;
        let own = ["http.admin.", "http.stats.", "http.ready."];
        let foreign = counts(&text);
        let foreign = foreign
            .iter()
            .filter(|(name, _)| !own.iter().any(|own| name.starts_with(own)));
        Ok(foreign.map(|(_, count)| count).sum())
    }
}

/// `NAME: COUNT` per line.
fn counts(text: &str) -> HashMap<&str, u64> {
    let pair = |line: &'_ str| -> Option<(usize, u64)> {
        let (name, count) = line.rsplit_once(": ")?;
        Some((name.len(), count.trim().parse().ok()?))
    };
    let lines = text.lines();
    lines
        .filter_map(|line| pair(line).map(|(end, count)| (line.split_at(end).0, count)))
        .collect()
}

impl Proxy for Admin {
    fn ready(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let text = self.call(Method::GET, READY_STATS).await?;
            is_ready(&text)
        })
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(self.call(Method::GET, "/stats/prometheus"))
    }
}

/// Ready means: clusters and listeners have arrived, the server is live, the workers run.
fn is_ready(stats: &str) -> Result<(), String> {
    let counts = counts(stats);
    let count = |name: &str| counts.get(name).copied().unwrap_or_default();
    let checks = [
        (
            count("cluster_manager.cds.update_success") > 0,
            "no clusters from the control plane yet",
        ),
        (
            count("listener_manager.lds.update_success") > 0,
            "no listeners from the control plane yet",
        ),
        // 0 is LIVE; absent is not.
        (counts.get("server.state") == Some(&0), "it is not live"),
        (
            count("listener_manager.workers_started") == 1,
            "its workers have not started",
        ),
    ];
    let missing: Vec<&str> = checks
        .iter()
        .filter(|(good, _)| !good)
        .map(|(_, missing)| *missing)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::is_ready;

    #[test]
    fn readiness_says_what_is_missing() {
        let all = "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 2\n\
                   listener_manager.workers_started: 1\nserver.state: 0\n";
        assert_eq!(is_ready(all), Ok(()));
        let missing = is_ready(&all.replace("success: 2", "success: 0")).unwrap_err();
        assert_eq!(missing, "no listeners from the control plane yet");
        assert!(is_ready("").unwrap_err().contains("it is not live"));
        assert!(is_ready(&all.replace("state: 0", "state: 1")).is_err());
    }
}
