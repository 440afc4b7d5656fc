//! Which DestinationRule applies to a call, and what its blocks come to for one port and subset.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use malla_model::id::{ObjectRef, selects};
use malla_model::service::Visibility;
use malla_model::traffic::{
    ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, RetryBudget, Subset, TrafficPolicy,
};
use malla_model::{DestinationRule, Host, Mesh};

use crate::node::NodeView;

/// The rules of one host, merged.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// The one that `istioctl` names.
    pub(crate) object: ObjectRef,
    pub(crate) policy: TrafficPolicy,
    pub(crate) subsets: Vec<Subset>,
}

/// The blocks in force for one port of one subset (or of the whole service).
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) connection_pool: Option<ConnectionPool>,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) retry_budget: Option<RetryBudget>,
}

impl Rule {
    pub(crate) fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| &*subset.name == name)
    }

    /// The blocks for `port`; a subset's stand before the rule's, one by one.
    pub(crate) fn policy(&self, port: u16, subset: Option<&Subset>) -> Policy {
        let general = at_port(&self.policy, port);
        match subset {
            None => general,
            Some(subset) => {
                let own = at_port(&subset.policy, port);
                Policy {
                    load_balancer: own.load_balancer.or(general.load_balancer),
                    connection_pool: own.connection_pool.or(general.connection_pool),
                    outlier: own.outlier.or(general.outlier),
                    tls: own.tls.or(general.tls),
                    retry_budget: own.retry_budget.or(general.retry_budget),
                }
            }
        }
    }
}

/// Settings of a port replace the four blocks as a set.
fn at_port(policy: &TrafficPolicy, port: u16) -> Policy {
    match policy.ports.iter().find(|p| p.port == port) {
        Some(own) => Policy {
            load_balancer: own.load_balancer.clone(),
            connection_pool: own.connection_pool.clone(),
            outlier: own.outlier.clone(),
            tls: own.tls.clone(),
            retry_budget: policy.retry_budget.clone(),
        },
        None => Policy {
            load_balancer: policy.load_balancer.clone(),
            connection_pool: policy.connection_pool.clone(),
            outlier: policy.outlier.clone(),
            tls: policy.tls.clone(),
            retry_budget: policy.retry_budget.clone(),
        },
    }
}

/// Which rules of a namespace take part in one step of the lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Rules for chosen client workloads.
    Selecting,
    /// Rules exported to nobody but their own namespace.
    Private,
    General,
}

/// The mesh's rules by host, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Index<'a> {
    exact: HashMap<&'a Host, Vec<&'a Arc<DestinationRule>>>,
    wild: Vec<&'a Arc<DestinationRule>>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(mesh: &'a Mesh) -> Self {
        let mut index = Self::default();
        for rule in &mesh.destination_rules {
            if rule.host.is_wildcard() {
                index.wild.push(rule);
            } else {
                index.exact.entry(&rule.host).or_default().push(rule);
            }
        }
        index
    }

    fn covering(&self, host: &Host) -> impl Iterator<Item = &'a Arc<DestinationRule>> {
        let exact = self.exact.get(host).into_iter().flatten();
        let wild = self.wild.iter().filter(move |rule| rule.host.covers(host));
        exact.chain(wild).copied()
    }

    /// Istio's lookup: the client's namespace, then the service's, then the root namespace; in each,
    /// the most specific host. Rules for chosen client workloads stand before general ones.
    pub(crate) fn find(
        &self,
        mesh: &Mesh,
        node: &NodeView,
        host: &Host,
        service_namespace: &str,
    ) -> Option<Rule> {
        let root = &*mesh.settings.root_namespace;
        let client = &*node.namespace;
        // Rules of the root namespace are for everybody, so only its private ones are a client's own.
        let own = if client == root {
            Step::Private
        } else {
            Step::General
        };
        let covering: Vec<_> = self
            .covering(host)
            .filter(|rule| rule.visibility.allows(&node.namespace))
            .collect();
        let merged = |namespace, step| merged(&covering, node, namespace, step);
        let selected = merged(client, Step::Selecting);
        let general = [
            (client, own),
            (service_namespace, Step::General),
            (root, Step::General),
        ]
        .into_iter()
        .find_map(|(namespace, step)| merged(namespace, step));
        match (selected, general) {
            (Some(selected), Some(general)) => Some(overlay(selected, general)),
            (selected, general) => selected.or(general),
        }
    }
}

fn merged(
    covering: &[&Arc<DestinationRule>],
    node: &NodeView,
    namespace: &str,
    step: Step,
) -> Option<Rule> {
    let mut candidates: Vec<&Arc<DestinationRule>> = covering
        .iter()
        .copied()
        .filter(|rule| rule.meta.namespace() == namespace)
        .filter(|rule| match (&rule.workload_selector, step) {
            (Some(selector), Step::Selecting) => selects(selector, &node.labels),
            (None, Step::Private) => rule.visibility != Visibility::Public,
            (None, Step::General) => true,
            _ => false,
        })
        .collect();
    // Stable, so the oldest stays first among equals.
    candidates.sort_by(|a, b| a.host.by_specificity(&b.host));
    let first = *candidates.first()?;
    let mut rule = Rule {
        object: first.meta.object.clone(),
        policy: first.policy.clone(),
        subsets: Vec::new(),
    };
    let same = candidates.iter().filter(|other| {
        other.host.by_specificity(&first.host) == Ordering::Equal
            && other.visibility == first.visibility
    });
    for other in same {
        for subset in &other.subsets {
            if rule.subset(&subset.name).is_none() {
                rule.subsets.push(subset.clone());
            }
        }
        if rule.policy == TrafficPolicy::default() {
            rule.policy = other.policy.clone();
        }
    }
    Some(rule)
}

fn overlay(selected: Rule, general: Rule) -> Rule {
    let mut rule = selected;
    let policy = &mut rule.policy;
    policy.load_balancer = policy.load_balancer.take().or(general.policy.load_balancer);
    policy.connection_pool = policy
        .connection_pool
        .take()
        .or(general.policy.connection_pool);
    policy.outlier = policy.outlier.take().or(general.policy.outlier);
    policy.tls = policy.tls.take().or(general.policy.tls);
    policy.retry_budget = policy.retry_budget.take().or(general.policy.retry_budget);
    for port in general.policy.ports {
        if !policy.ports.iter().any(|own| own.port == port.port) {
            policy.ports.push(port);
        }
    }
    for subset in general.subsets {
        if rule.subset(&subset.name).is_none() {
            rule.subsets.push(subset);
        }
    }
    rule
}
