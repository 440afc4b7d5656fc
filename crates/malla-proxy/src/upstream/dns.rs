//! Resolves the names of DNS clusters, again and again, and turns answers into endpoints.
//!
//! The resolver is small on purpose: `/etc/hosts`, then the name servers of `/etc/resolv.conf` with its search list, over
//! UDP and over TCP where an answer was cut off. Answers' TTLs are kept, which `getaddrinfo` throws away. A name that nobody
//! has keeps no address; one that nobody answers for keeps those it had.
mod resolver;
mod sysconf;

#[cfg(fuzzing)]
pub use self::{resolver::answered, sysconf::looked_up};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Dns, DnsFamily};
use malla_proxy_config::endpoints::{Endpoint, EndpointSet};
use malla_runtime::task::AbortOnDrop;
use tokio::runtime::Handle;

use super::cluster::SharedCluster;
use crate::balance::Rng64;

pub use self::resolver::{Answer, ResolveError, Resolver};

/// Envoy's shortest `dns_refresh_rate`.
const MIN_REFRESH: Duration = Duration::from_millis(1);

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

/// What became of look-ups (`update_*`).
#[derive(Debug, Default)]
pub struct Lookups {
    attempt: AtomicU64,
    success: AtomicU64,
    failure: AtomicU64,
    no_rebuild: AtomicU64,
}

impl Lookups {
    /// By Envoy's names; nothing for clusters that have no names.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("update_attempt", &self.attempt),
            ("update_success", &self.success),
            ("update_failure", &self.failure),
            ("update_no_rebuild", &self.no_rebuild),
        ];
        let all = all.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let used = all[0].1 > 0;
        all.into_iter().filter(move |_| used)
    }
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// Keeps a cluster's endpoints resolved for as long as the cluster lives: each name for itself, in its own time.
pub(super) fn follow(
    control: &Handle,
    cluster: Weak<SharedCluster>,
    dns: Dns,
    logical: bool,
) -> AbortOnDrop<()> {
    AbortOnDrop::adopt(control.spawn(async move {
        let Some(home) = cluster.upgrade().map(|cluster| Arc::clone(&cluster.home)) else {
            return;
        };
        let settings = dns.resolver.clone().or_else(|| home.resolver.clone());
        let known = Known::new(&dns.template, logical);
        if known.names.is_empty()
            && let Some(cluster) = cluster.upgrade()
        {
            cluster.set_endpoints(known.endpoints());
        }
        let resolver = Resolver::new(SystemFiles::default(), settings);
        let names = known.names.iter().enumerate().map(|(at, name)| {
            let one = Name {
                at,
                name,
                known: &known,
                resolver: &resolver,
                cluster: &cluster,
                dns: &dns,
            };
            one.follow()
        });
        futures_util::future::join_all(names).await;
    }))
}

/// What the names of a cluster were last found to be.
struct Known<'a> {
    template: &'a EndpointSet,
    logical: bool,
    names: Vec<&'a str>,
    /// `None` was never answered.
    found: Mutex<Vec<Option<Vec<IpAddr>>>>,
}

impl<'a> Known<'a> {
    fn new(template: &'a EndpointSet, logical: bool) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for (_, endpoint) in template.iter() {
            if let Address::Name { host, .. } = &endpoint.address
                && !names.contains(&&**host)
            {
                names.push(host);
            }
        }
        Self {
            template,
            logical,
            found: Mutex::new(vec![None; names.len()]),
            names,
        }
    }

    fn learn(&self, at: usize, addresses: Vec<IpAddr>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = found.get_mut(at) {
            *slot = Some(addresses);
        }
    }

    /// The endpoints, as far as their names are known.
    fn endpoints(&self) -> EndpointSet {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut set = self.template.clone();
        for group in &mut set.localities {
            let mut resolved = Vec::new();
            for endpoint in &group.endpoints {
                let Address::Name { host, port } = &endpoint.address else {
                    resolved.push(Arc::clone(endpoint));
                    continue;
                };
                let at = self.names.iter().position(|name| *name == &**host);
                let Some(addresses) = at.and_then(|at| found.get(at)?.as_deref()) else {
                    continue;
                };
                if self.logical {
                    resolved.extend(one_of(endpoint, host, addresses, *port));
                } else {
                    let each = addresses.iter();
                    resolved
                        .extend(each.map(|ip| Arc::new(at_address(endpoint, host, *ip, *port))));
                }
            }
            group.endpoints = resolved;
        }
        set
    }
}

/// One name of a cluster.
struct Name<'a> {
    at: usize,
    name: &'a str,
    known: &'a Known<'a>,
    resolver: &'a Resolver,
    cluster: &'a Weak<SharedCluster>,
    dns: &'a Dns,
}

impl Name<'_> {
    /// Looks it up again and again; ends with the cluster.
    async fn follow(self) {
        let mut rng = Rng64::seeded(Weak::as_ptr(self.cluster) as u64 ^ self.at as u64);
        let mut failures = 0u32;
        loop {
            let Some(cluster) = self.cluster.upgrade() else {
                return;
            };
            count(&cluster.lookups.attempt);
            drop(cluster);
            let result = self.resolver.resolve(self.name, self.dns.family).await;
            let Some(cluster) = self.cluster.upgrade() else {
                return;
            };
            let wait = match result {
                // One logical endpoint is not given up for an answer without an address.
                Ok(answer) if !(self.known.logical && answer.addresses.is_empty()) => {
                    failures = 0;
                    let wait = self.wait(&answer, &mut rng);
                    count(&cluster.lookups.success);
                    self.known.learn(self.at, answer.addresses);
                    if !cluster.set_endpoints(self.known.endpoints()) {
                        count(&cluster.lookups.no_rebuild);
                    }
                    wait
                }
                failed => {
                    if let Err(error) = failed {
                        tracing::debug!(cluster = %cluster.config.name, %error, "name resolution failed; the last answer stays");
                    }
                    count(&cluster.lookups.failure);
                    cluster.set_resolved();
                    failures += 1;
                    self.wait_after(failures, &mut rng)
                }
            };
            drop(cluster);
            tokio::time::sleep(wait.max(MIN_REFRESH)).await;
        }
    }

    /// The time after an answer.
    fn wait(&self, answer: &Answer, rng: &mut Rng64) -> Duration {
        let dns = self.dns;
        let ttl = Some(answer.ttl).filter(|ttl| dns.respect_ttl && !ttl.is_zero());
        let ttl = ttl.filter(|_| !answer.addresses.is_empty());
        let wait = ttl.map_or(dns.refresh, |ttl| ttl.max(dns.min_ttl));
        wait + dns.jitter.mul_f64(rng.unit())
    }

    /// The time after so many failures in a row.
    fn wait_after(&self, failures: u32, rng: &mut Rng64) -> Duration {
        let Some((base, longest)) = self.dns.failure_refresh else {
            return self.dns.refresh;
        };
        let doubled = base.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(longest).mul_f64(rng.unit())
    }
}

/// One endpoint with all addresses of its name: the first that answers is used.
fn one_of(endpoint: &Endpoint, name: &str, ips: &[IpAddr], port: u16) -> Option<Arc<Endpoint>> {
    let (first, more) = ips.split_first()?;
    Some(Arc::new(Endpoint {
        more_addresses: more.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
        ..at_address(endpoint, name, *first, port)
    }))
}

fn at_address(endpoint: &Endpoint, name: &str, ip: IpAddr, port: u16) -> Endpoint {
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
