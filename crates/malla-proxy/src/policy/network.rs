//! RBAC on connections, before their first byte goes on.

use malla_proxy_config::filter_chain::{NetworkFilter, NetworkRbac};

use super::rbac::{Subject, decide};
use crate::connection::Connection;
use crate::telemetry::stats::WorkerStats;

/// A connection's fate under the chain's network filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Allowed,
    /// It is closed, after this wait if there is one; the policy that denied it, if one matched.
    Denied {
        /// Wait before closing.
        delay: Option<std::time::Duration>,
        /// The policy.
        policy: Option<String>,
    },
}

/// Runs the filters of the connection's chain in order.
pub fn authorise(connection: &Connection, stats: &WorkerStats) -> Verdict {
    for filter in &connection.chain.filters {
        let NetworkFilter::Rbac(rbac) = filter else {
            continue;
        };
        let verdict = check(rbac, connection, stats);
        if verdict != Verdict::Allowed {
            return verdict;
        }
    }
    Verdict::Allowed
}

fn check(rbac: &NetworkRbac, connection: &Connection, stats: &WorkerStats) -> Verdict {
    let subject = Subject {
        connection,
        request: None,
        remote: connection.remote,
    };
    let stats = stats.rbac(&format!("{}rbac", dotted(&rbac.stat_prefix)));
    if let Some(rules) = &rbac.shadow {
        let decision = decide(rules, &subject);
        if decision.allowed {
            stats.shadow_allowed.inc()
        } else {
            stats.shadow_denied.inc()
        }
        tracing::debug!(
            allowed = decision.allowed,
            policy = decision.policy,
            "shadow rules decided"
        );
    }
    let Some(rules) = &rbac.rules else {
        return Verdict::Allowed;
    };
    let decision = decide(rules, &subject);
    if decision.allowed {
        stats.allowed.inc();
        return Verdict::Allowed;
    }
    stats.denied.inc();
    Verdict::Denied {
        delay: rbac.delay_deny,
        policy: decision.policy.map(str::to_owned),
    }
}

/// A prefix with the dot that Envoy puts behind it, if it is not there.
pub(crate) fn dotted(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('.') {
        prefix.to_owned()
    } else {
        format!("{prefix}.")
    }
}
