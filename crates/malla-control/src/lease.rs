//! Which of several replicas writes: the holder of a Lease (coordination.k8s.io).
//!
//! Invariant: a replica believes it leads only until the lease it last renewed runs out by its own
//! clock, so that two never write at once as long as clocks run at the same speed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long a lease holds without being renewed.
const HOLDS: Duration = Duration::from_secs(15);
/// How often it is renewed, and asked for by the others.
const RENEWED: Duration = Duration::from_secs(5);

/// Takes part in the election until dropped; the watched value says whether this replica leads.
pub async fn elect(
    client: kube::Client,
    namespace: String,
    name: &'static str,
    me: String,
    leads: watch::Sender<bool>,
) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut until = None;
    loop {
        match attempt(&leases, &namespace, name, &me).await {
            Ok(true) => until = Some(Instant::now() + HOLDS),
            Ok(false) => until = None,
            Err(error) => warn!(lease = name, %error, "cannot renew the lease"),
        }
        let leading = until.is_some_and(|until| Instant::now() < until);
        let changed = leads.send_if_modified(|now| std::mem::replace(now, leading) != leading);
        if changed {
            info!(lease = name, leading, "leadership changed");
        }
        tokio::time::sleep(RENEWED).await;
    }
}

/// Whether the lease is ours now.
async fn attempt(leases: &Api<Lease>, namespace: &str, name: &str, me: &str) -> kube::Result<bool> {
    let now = Timestamp::now();
    let Some(lease) = leases.get_opt(name).await? else {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        };
        let lease = Lease {
            metadata,
            spec: Some(claim(&LeaseSpec::default(), me, now)),
        };
        return ours(leases.create(&PostParams::default(), &lease).await);
    };
    let spec = lease.spec.clone().unwrap_or_default();
    if !may_take(&spec, me, now) {
        return Ok(false);
    }
    // The resourceVersion goes along: of two that take it at once, one is refused.
    let next = Lease {
        spec: Some(claim(&spec, me, now)),
        ..lease
    };
    ours(leases.replace(name, &PostParams::default(), &next).await)
}

fn ours(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn may_take(spec: &LeaseSpec, me: &str, now: Timestamp) -> bool {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let holds = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let renewed = spec
        .renew_time
        .as_ref()
        .map_or(0, |time| time.0.as_second());
    holder.is_empty() || holder == me || now.as_second() > renewed.saturating_add(holds)
}

fn claim(before: &LeaseSpec, me: &str, now: Timestamp) -> LeaseSpec {
    let again = before.holder_identity.as_deref() == Some(me);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
        acquire_time: if again {
            before.acquire_time.clone()
        } else {
            Some(MicroTime(now))
        },
        renew_time: Some(MicroTime(now)),
        lease_transitions: before
            .lease_transitions
            .unwrap_or_default()
            .checked_add(i32::from(!again)),
        ..before.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_free_ours_or_run_out() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let held = claim(&LeaseSpec::default(), "a", at(100));
        assert!(may_take(&LeaseSpec::default(), "b", at(100)));
        assert!(may_take(&held, "a", at(101)));
        assert!(!may_take(&held, "b", at(115)));
        assert!(may_take(&held, "b", at(116)));
        let taken = claim(&held, "b", at(116));
        assert_eq!(
            (taken.lease_transitions, taken.holder_identity.as_deref()),
            (Some(2), Some("b"))
        );
        assert_eq!(claim(&taken, "b", at(120)).acquire_time, taken.acquire_time);
    }
}
