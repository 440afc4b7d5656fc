//! Chooses the host for a request or connection, with a balancer that is rebuilt when hosts or their health change.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, Discovery, OriginalDst};
use malla_proxy_config::endpoints::Endpoint;
use tokio::time::Instant;

use super::WorkerCluster;
use crate::balance::{Balancer, Request, Rng64};
use crate::connection::Connection;
use crate::upstream::host::{Host, HostSet};
use crate::upstream::{Choice, SendError};

/// While a host is warming up its weight changes by the second.
const SLOW_START_REFRESH: Duration = Duration::from_secs(1);

/// The balancer over one set of hosts in one state of health.
#[derive(Debug, Default)]
pub(super) struct Picker {
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    hosts: Arc<HostSet>,
    health: u64,
    balancer: Balancer,
    /// Index in `hosts` of each member of the balancer.
    members: Vec<u32>,
    /// Weights are good until then.
    until: Option<Instant>,
}

impl WorkerCluster {
    /// The host for a request; `Err` if none may be used or the load assignment drops the request.
    pub(super) async fn choose(
        &self,
        choice: &Choice<'_>,
        headers: &http::HeaderMap,
    ) -> Result<Arc<Host>, SendError> {
        let shared = &self.around.shared;
        if let Discovery::OriginalDst(settings) = &self.config().discovery {
            let address = original_destination(settings, choice.connection, headers);
            return address
                .map(|address| self.dynamic_host(address))
                .ok_or(SendError::NoHealthyHost);
        }
        if !shared.is_resolved() {
            // The first look-up is under way: waiting for it beats failing the first requests.
            let _ = tokio::time::timeout(self.config().connect_timeout, shared.resolved()).await;
        }
        let hosts = shared.hosts();
        if let Some(source) = &hosts.source
            && source
                .drop_overloads
                .iter()
                .any(|(_, share)| share.hit(self.rng.borrow_mut().next()))
        {
            return Err(SendError::DropOverload);
        }
        let hash = Request {
            hash: choice.hash,
            reselections: reselections(choice),
        };
        let refuse = |host: &Host| choice.avoid_tried && is_tried(choice.tried, host);
        if let Some(host) = self.untried_priority(&hosts, choice, hash, &refuse) {
            return Ok(host);
        }
        let health = shared.health_version();
        let mut rng = self.rng.borrow_mut();
        let mut picker = self.picker.borrow_mut();
        let current = picker.follow(self.config(), &hosts, health);
        if current.balancer.in_panic() {
            self.around.stats.lb_healthy_panic.inc();
        }
        current.pick(hash, &mut rng, &refuse).ok_or_else(|| {
            self.around.stats.upstream_cx_none_healthy.inc();
            SendError::NoHealthyHost
        })
    }

    fn dynamic_host(&self, address: Address) -> Arc<Host> {
        let mut dynamic = self.dynamic.borrow_mut();
        if let Some(host) = dynamic.get(&address) {
            return Arc::clone(host);
        }
        let host = self.around.shared.dynamic_host(address.clone());
        dynamic.insert(address, Arc::clone(&host));
        host
    }

    /// With `previous_priorities`: a host of a priority not tried yet, while there is one.
    fn untried_priority(
        &self,
        hosts: &HostSet,
        choice: &Choice<'_>,
        hash: Request,
        refuse: &dyn Fn(&Host) -> bool,
    ) -> Option<Arc<Host>> {
        let every = choice.avoid_priorities? as usize;
        let counted = choice.tried.len().checked_div(every)? * every;
        let tried = choice
            .tried
            .get(..counted)
            .filter(|tried| !tried.is_empty())?;
        let priorities: Vec<u32> = hosts
            .hosts
            .iter()
            .filter(|host| is_tried(tried, host))
            .map(|host| host.priority)
            .collect();
        let (mut balancer, members) = hosts.balancer(
            self.config(),
            |host| !priorities.contains(&host.priority),
            Instant::now(),
        );
        let mut rng = self.rng.borrow_mut();
        let at = |member: usize| &hosts.hosts[members[member] as usize];
        let picked = balancer.pick(
            hash,
            &mut rng,
            &|m| at(m).state.active.load(Ordering::Relaxed),
            &|m| refuse(at(m)),
        );
        picked.map(|member| Arc::clone(at(member)))
    }
}

impl Picker {
    /// The balancer for `hosts`, rebuilt if anything it depends on changed.
    fn follow(&mut self, cluster: &Cluster, hosts: &Arc<HostSet>, health: u64) -> &mut Current {
        let fresh = self.current.as_ref().is_some_and(|current| {
            Arc::ptr_eq(&current.hosts, hosts)
                && current.health == health
                && current.until.is_none_or(|until| Instant::now() < until)
        });
        if !fresh {
            self.current = None;
        }
        self.current.get_or_insert_with(|| {
            let now = Instant::now();
            let (balancer, members) = hosts.balancer(cluster, |_| true, now);
            let warming = hosts.is_warming(cluster, now);
            Current {
                hosts: Arc::clone(hosts),
                health,
                balancer,
                members,
                until: warming.then(|| now + SLOW_START_REFRESH),
            }
        })
    }
}

impl Current {
    fn pick(
        &mut self,
        request: Request,
        rng: &mut Rng64,
        refuse: &dyn Fn(&Host) -> bool,
    ) -> Option<Arc<Host>> {
        let (hosts, members) = (&self.hosts.hosts, &self.members);
        let at = |member: usize| &hosts[members[member] as usize];
        let active = |member: usize| at(member).state.active.load(Ordering::Relaxed);
        let picked = self
            .balancer
            .pick(request, rng, &active, &|member| refuse(at(member)));
        picked.map(|member| Arc::clone(at(member)))
    }
}

/// How often another host may be drawn after the first.
fn reselections(choice: &Choice<'_>) -> u32 {
    if choice.avoid_tried && !choice.tried.is_empty() {
        choice.host_selection_attempts.max(1)
    } else {
        0
    }
}

fn is_tried(tried: &[Arc<Endpoint>], host: &Host) -> bool {
    tried
        .iter()
        .any(|tried| tried.address == host.endpoint.address)
}

/// Where an ORIGINAL_DST cluster sends a connection: the header if configured and sent, else where the client meant to go.
fn original_destination(
    settings: &OriginalDst,
    connection: &Connection,
    headers: &http::HeaderMap,
) -> Option<Address> {
    let from_header = settings.header.as_ref().and_then(|name| headers.get(name));
    let mut address = match from_header {
        Some(value) => value.to_str().ok()?.parse().ok()?,
        None => connection.local_restored.then_some(connection.local)?,
    };
    if let Some(port) = settings.port_override {
        address.set_port(port);
    }
    Some(Address::Socket(address))
}
