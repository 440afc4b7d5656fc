//! Routes that are attached to a listener.

use std::sync::Arc;

use malla_model::Host;

use super::super::attach::Ordered;
use super::super::routes::Route;
use super::{HTTP, Listener};
use crate::gateway_api::GatewayKind;

/// A route that is attached.
#[derive(Debug)]
pub(super) struct Attached {
    kind: GatewayKind,
    /// `namespace/name`.
    name: String,
    hosts: Vec<Host>,
}

impl Listener<'_> {
    /// Attaches a route, for names that both have.
    ///
    /// # Errors
    /// When routes that take precedence have the names: routes for HTTP and for gRPC share none, and
    /// connections with a name all go where one route says.
    pub(in super::super) fn take(
        &mut self,
        route: &Route<'_>,
        hosts: Vec<Host>,
    ) -> Result<(), String> {
        let mut own = hosts.clone();
        own.retain(|host| !self.rivals.iter().any(|rival| rival.covers(host)));
        if HTTP.contains(&route.kind) {
            self.take_requests(route, &hosts, &own)?;
        } else {
            self.take_connections(route, &own)?;
        }
        // Several parents may lead to one listener.
        let name = route.full_name();
        let same = |known: &&mut Attached| known.kind == route.kind && known.name == name;
        match self.attached.iter_mut().find(same) {
            Some(known) => known.hosts.extend(hosts),
            None => self.attached.push(Attached {
                kind: route.kind,
                name,
                hosts,
            }),
        }
        Ok(())
    }

    fn take_requests(
        &mut self,
        route: &Route<'_>,
        hosts: &[Host],
        own: &[Host],
    ) -> Result<(), String> {
        let shares = |other: &&Attached| {
            let mut theirs = other.hosts.iter();
            other.kind != route.kind
                && theirs.any(|their| hosts.iter().any(|own| own.overlaps(their)))
        };
        if let Some(other) = self.attached.iter().find(shares) {
            let (kind, listener) = (other.kind.name(), &self.written.name);
            return Err(format!(
                "{kind} {} has names of it on listener {listener}",
                other.name
            ));
        }
        for host in own {
            add_rules(route, self.rules.entry(host.clone()).or_default());
        }
        Ok(())
    }

    fn take_connections(&mut self, route: &Route<'_>, own: &[Host]) -> Result<(), String> {
        let mut others = None;
        let mut any = false;
        for host in own {
            let (of, _) = self.connections.entry(host.clone()).or_insert_with(|| {
                let to = route.rules.connections.clone();
                (Arc::clone(&route.origin), to)
            });
            if of.object == route.origin.object {
                any = true;
            } else {
                others = Some(of.object.clone());
            }
        }
        match others {
            Some(other) if !any => Err(format!(
                "{other} has its connections on listener {}",
                self.written.name
            )),
            _ => Ok(()),
        }
    }
}

/// Adds what a route says to the rules of a host, but for what is there already.
fn add_rules(route: &Route<'_>, rules: &mut Vec<Ordered>) {
    for rule in &route.rules.routes {
        let ordered = Ordered::new(route, rule);
        if !rules.iter().any(|known| known.order == ordered.order) {
            rules.push(ordered);
        }
    }
}
