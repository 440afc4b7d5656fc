//! BackendTLSPolicies. They are not acted on yet: those of backends that routes of ours use say so.

use std::collections::{BTreeMap, BTreeSet};

use malla_model::Host;
use malla_model::route::HttpAction;

use super::super::GatewayKind;
use super::super::types::ParentRef;
use super::attach::Parent;
use super::routes::Route;
use super::status::{self, Entry, Status};
use super::{Objects, Surroundings};

/// Parents of the routes that lead to each host.
#[derive(Debug, Default)]
pub(super) struct Backends(BTreeMap<Host, BTreeSet<ParentRef>>);

impl Backends {
    pub(super) fn add(&mut self, route: &Route<'_>, parents: &[Parent]) {
        let requests = route.rules.routes.iter().flat_map(|rule| {
            let to = match &rule.route.action {
                HttpAction::Forward(to) => to.as_slice(),
                _ => &[],
            };
            to.iter()
        });
        for to in requests.chain(&route.rules.connections) {
            let known = self.0.entry(to.destination.host.clone()).or_default();
            known.extend(parents.iter().map(|parent| {
                let mut reference = parent.reference.clone();
                // A policy need not be of the route's namespace.
                reference
                    .namespace
                    .get_or_insert_with(|| route.namespace.to_owned());
                reference
            }));
        }
    }

    pub(super) fn statuses<'s>(
        &'s self,
        objects: &'s Objects,
        around: &'s Surroundings<'_>,
    ) -> impl Iterator<Item = Status> + 's {
        let policies = objects.backend_tls_policies.values();
        policies.filter_map(|policy| {
            let targets = policy.spec.target_refs.iter();
            let services = targets.filter(|target| target.group.is_empty() && target.kind == "Service");
            let hosts = services.map(|target| {
                let (name, namespace) = (&target.name, policy.namespace());
                Host::new(&format!("{name}.{namespace}.svc.{}", around.settings.domain))
            });
            let ancestors: BTreeSet<&ParentRef> =
                hosts.filter_map(|host| self.0.get(&host)).flatten().collect();
            let entries = ancestors.into_iter().map(|ancestor| Entry {
                reference: status::parent_ref(ancestor),
                conditions: vec![(
                    "Accepted",
                    false,
                    "Invalid",
                    "policies do not encrypt calls to backends yet: a DestinationRule with trafficPolicy.tls does".to_owned(),
                )],
            });
            let list = ("ancestors", "ancestorRef");
            let status = status::by_reference(
                list,
                entries.collect(),
                &policy.status,
                policy.generation(),
                around.now,
            )?;
            let name = (policy.namespace(), policy.name());
            let kind = GatewayKind::BackendTlsPolicy;
            Some(Status::new(kind, name, &policy.status, status))
        })
    }
}
