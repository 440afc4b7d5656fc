//! Resolves the names of DNS clusters, again and again, and turns answers into endpoints.
//!
//! The resolver is small on purpose: `/etc/hosts`, then the name servers of `/etc/resolv.conf` with its search list, over
//! UDP and over TCP where an answer was cut off. Answers' TTLs are kept, which `getaddrinfo` throws away.
mod resolver;
mod sysconf;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Dns, DnsFamily};
use malla_proxy_config::endpoints::{Endpoint, EndpointSet};
use malla_runtime::task::AbortOnDrop;
use tokio::runtime::Handle;

use super::cluster::SharedCluster;
use crate::balance::Rng64;

pub use self::resolver::{Answer, ResolveError, Resolver};

/// TTLs shorter than this would turn one name into a stream of queries.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Where the system's resolver settings are.
#[derive(Debug, Clone)]
pub struct SystemFiles {
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// Keeps a cluster's endpoints resolved for as long as the cluster lives.
pub(super) fn follow(
    control: &Handle,
    cluster: Weak<SharedCluster>,
    dns: Dns,
    logical: bool,
) -> AbortOnDrop<()> {
    AbortOnDrop::adopt(control.spawn(async move {
        let resolver = Resolver::new(SystemFiles::default());
        let mut rng = Rng64::seeded(Weak::as_ptr(&cluster) as u64);
        let mut failures = 0u32;
        loop {
            let round = resolve_all(&resolver, &dns, logical).await;
            let Some(cluster) = cluster.upgrade() else { return };
            let wait = match round {
                Ok((set, ttl)) => {
                    failures = 0;
                    cluster.set_endpoints(set);
                    let ttl = ttl.filter(|_| dns.respect_ttl);
                    ttl.unwrap_or(dns.refresh).max(MIN_REFRESH)
                }
                Err(error) => {
                    tracing::debug!(cluster = %cluster.config.name, %error, "name resolution failed; the last answer stays");
                    cluster.set_resolved();
                    let (first, longest) = dns.failure_refresh;
                    let wait = first.saturating_mul(1 << failures.min(16)).min(longest).max(MIN_REFRESH);
                    failures += 1;
                    wait
                }
            };
            drop(cluster);
            tokio::time::sleep(wait + dns.jitter.mul_f64(rng.unit())).await;
        }
    }))
}

/// Resolves every name of the template. A name that fails fails the round, unless others answered.
async fn resolve_all(
    resolver: &Resolver,
    dns: &Dns,
    logical: bool,
) -> Result<(EndpointSet, Option<Duration>), ResolveError> {
    let mut set = (*dns.template).clone();
    let mut ttl: Option<Duration> = None;
    let mut failed = None;
    for group in &mut set.localities {
        let mut resolved = Vec::new();
        for endpoint in &group.endpoints {
            let Address::Name { host, port } = &endpoint.address else {
                resolved.push(Arc::clone(endpoint));
                continue;
            };
            match resolver.resolve(host, dns.family).await {
                Ok(answer) => {
                    ttl = Some(ttl.map_or(answer.ttl, |ttl| ttl.min(answer.ttl)));
                    let count = if logical { 1 } else { usize::MAX };
                    let addresses = answer.addresses.into_iter().take(count);
                    resolved.extend(addresses.map(|ip| Arc::new(at(endpoint, host, ip, *port))));
                }
                Err(error) => failed = Some(error),
            }
        }
        group.endpoints = resolved;
    }
    match failed {
        Some(error)
            if set
                .localities
                .iter()
                .all(|group| group.endpoints.is_empty()) =>
        {
            Err(error)
        }
        _ => Ok((set, ttl)),
    }
}

fn at(endpoint: &Endpoint, name: &str, ip: IpAddr, port: u16) -> Endpoint {
    let hostname = if endpoint.hostname.is_empty() {
        name.to_owned()
    } else {
        endpoint.hostname.clone()
    };
    Endpoint {
        address: Address::Socket(SocketAddr::new(ip, port)),
        hostname,
        ..endpoint.clone()
    }
}

/// Which record types to ask for, in order; the first with answers wins unless all are wanted.
fn record_types(family: DnsFamily) -> (&'static [hickory_proto::rr::RecordType], bool) {
    use hickory_proto::rr::RecordType::{A, AAAA};
    match family {
        DnsFamily::Auto => (&[AAAA, A], false),
        DnsFamily::V4Only => (&[A], false),
        DnsFamily::V6Only => (&[AAAA], false),
        DnsFamily::V4Preferred => (&[A, AAAA], false),
        DnsFamily::All => (&[A, AAAA], true),
    }
}
