//! Listeners: whether each can be opened, and what it becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::gateway::{SecretRef, Server, ServerHost, ServerTls, ServerTlsMode};
use malla_model::id::{Labels, Meta};
use malla_model::secret::NoSecret;
use malla_model::service::Visibility;
use malla_model::{Gateway, Host, ObjectRef, Protocol, VirtualService};
use serde_json::{Value, json};

use super::super::types::{self, CertificateRef, GatewaySpec};
use super::super::{GROUP, GatewayKind};
use super::attach::{Ordered, in_order};
use super::grants::{self, Target};
use super::routes::Route;
use super::status::Conditions;
use super::{Object, Objects, Surroundings};
use crate::lower::meta::meta;

/// Routes for requests.
const REQUESTS: [GatewayKind; 2] = [GatewayKind::HttpRoute, GatewayKind::GrpcRoute];

/// A condition's reason and message.
pub(super) type Why = (&'static str, String);

/// One listener of one Gateway.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) gateway: &'a Object<GatewaySpec>,
    pub(super) written: &'a types::Listener,
    pub(super) hostname: Host,
    /// Kinds of routes that may attach.
    pub(super) kinds: Vec<GatewayKind>,
    /// Names that listeners of the same port serve more closely: those are theirs alone.
    rivals: Vec<Host>,
    /// Why it is not accepted, conflicts, or refers to nothing.
    refused: Option<Why>,
    conflict: Option<Why>,
    unresolved: Option<Why>,
    secrets: Vec<SecretRef>,
    /// Routes that are attached.
    attached: Vec<Attached>,
    /// Rules by host.
    rules: BTreeMap<Host, Vec<Ordered>>,
}

/// A route that is attached.
#[derive(Debug)]
struct Attached {
    kind: GatewayKind,
    /// `namespace/name`.
    name: String,
    hosts: Vec<Host>,
}

/// The listeners of a Gateway, in their order. Of two that clash the first stays.
pub(super) fn of<'a>(
    gateway: &'a Object<GatewaySpec>,
    objects: &Objects,
    around: &Surroundings<'_>,
    secret_namespaces: &mut BTreeSet<Arc<str>>,
) -> Vec<Listener<'a>> {
    let mut listeners: Vec<Listener<'a>> = Vec::new();
    for written in &gateway.spec.listeners {
        let mut listener = Listener {
            gateway,
            written,
            hostname: Host::new(
                written
                    .hostname
                    .as_deref()
                    .filter(|h| !h.is_empty())
                    .unwrap_or("*"),
            ),
            kinds: Vec::new(),
            rivals: Vec::new(),
            refused: None,
            conflict: None,
            unresolved: None,
            secrets: Vec::new(),
            attached: Vec::new(),
            rules: BTreeMap::new(),
        };
        listener.check_protocol();
        listener.check_kinds();
        listener.check_tls(objects, around, secret_namespaces);
        listener.conflict = listeners
            .iter()
            .find_map(|earlier| conflict(earlier, &listener));
        listeners.push(listener);
    }
    let places: Vec<(u16, Host)> = listeners
        .iter()
        .filter(|listener| listener.is_accepted())
        .map(|listener| (listener.written.port, listener.hostname.clone()))
        .collect();
    for listener in &mut listeners {
        let own = &listener.hostname;
        let closer = places.iter().filter(|(port, host)| {
            *port == listener.written.port && own.covers(host) && host != own
        });
        listener.rivals = closer.map(|(_, host)| host.clone()).collect();
    }
    listeners
}

fn conflict(earlier: &Listener<'_>, listener: &Listener<'_>) -> Option<Why> {
    if !earlier.is_accepted() || earlier.written.port != listener.written.port {
        return None;
    }
    let name = &earlier.written.name;
    if earlier.written.protocol != listener.written.protocol {
        return Some((
            "ProtocolConflict",
            format!(
                "listener {name} speaks {} on this port",
                earlier.written.protocol
            ),
        ));
    }
    (earlier.hostname == listener.hostname).then(|| {
        (
            "HostnameConflict",
            format!("listener {name} has the same port and hostname"),
        )
    })
}

impl Listener<'_> {
    fn check_protocol(&mut self) {
        let protocol = self.written.protocol.as_str();
        if !matches!(protocol, "HTTP" | "HTTPS") {
            self.refused = Some((
                "UnsupportedProtocol",
                format!("protocol {protocol:?} is not supported (expected HTTP or HTTPS)"),
            ));
        }
        if self.written.port == 0 {
            self.refused = Some(("PortUnavailable", "port 0 cannot be opened".to_owned()));
        }
    }

    /// The kinds of routes that its protocol can carry.
    pub(super) fn carries(&self) -> &'static [GatewayKind] {
        &REQUESTS
    }

    /// Attaches a route, for names that both have.
    ///
    /// # Errors
    /// When a route that takes precedence has the names: routes for HTTP and for gRPC share none.
    pub(super) fn take(&mut self, route: &Route<'_>, hosts: Vec<Host>) -> Result<(), String> {
        let name = route.full_name();
        let shares = |other: &&Attached| {
            let mut theirs = other.hosts.iter();
            other.kind != route.kind
                && theirs.any(|their| hosts.iter().any(|own| own.overlaps(their)))
        };
        if let Some(other) = self.attached.iter().find(shares) {
            return Err(format!(
                "{} {} has names of it on listener {}",
                other.kind.name(),
                other.name,
                self.written.name
            ));
        }
        for host in &hosts {
            if !self.rivals.iter().any(|rival| rival.covers(host)) {
                let rules = self.rules.entry(host.clone()).or_default();
                add_rules(route, rules);
            }
        }
        // Several parents may lead to one listener.
        match self
            .attached
            .iter_mut()
            .find(|known| known.kind == route.kind && known.name == name)
        {
            Some(known) => known.hosts.extend(hosts),
            None => self.attached.push(Attached {
                kind: route.kind,
                name,
                hosts,
            }),
        }
        Ok(())
    }

    fn check_kinds(&mut self) {
        let allowed = self.written.allowed_routes.as_ref();
        let wanted = allowed.map_or(&[][..], |allowed| allowed.kinds.as_slice());
        if wanted.is_empty() {
            self.kinds = self.carries().to_vec();
            return;
        }
        for kind in wanted {
            let ours = kind.group.as_deref().unwrap_or(GROUP) == GROUP;
            let carried = GatewayKind::parse(&kind.kind)
                .filter(|known| ours && self.carries().contains(known));
            match carried {
                Some(known) => self.kinds.push(known),
                None => {
                    self.unresolved = Some((
                        "InvalidRouteKinds",
                        format!(
                            "allowedRoutes.kinds: {} cannot attach to {} listeners",
                            kind.kind, self.written.protocol
                        ),
                    ));
                }
            }
        }
    }

    fn check_tls(
        &mut self,
        objects: &Objects,
        around: &Surroundings<'_>,
        secret_namespaces: &mut BTreeSet<Arc<str>>,
    ) {
        if self.written.protocol != "HTTPS" {
            return;
        }
        let empty = types::ListenerTls::default();
        let tls = self.written.tls.as_ref().unwrap_or(&empty);
        if tls.mode.as_deref().is_some_and(|mode| mode != "Terminate") {
            self.refused = Some((
                "UnsupportedValue",
                "tls.mode: HTTPS listeners can only Terminate".to_owned(),
            ));
            return;
        }
        let frontend = self
            .gateway
            .spec
            .tls
            .as_ref()
            .and_then(|tls| tls.frontend.as_ref());
        if frontend.is_some() {
            self.refused = Some((
                "UnsupportedValue",
                "spec.tls.frontend: clients' certificates are not checked yet, so nobody is served"
                    .to_owned(),
            ));
            return;
        }
        if tls.certificate_refs.is_empty() {
            self.unresolved = Some((
                "InvalidCertificateRef",
                "tls.certificateRefs: expected at least one Secret".to_owned(),
            ));
            return;
        }
        for reference in &tls.certificate_refs {
            match self.certificate(reference, objects, around, secret_namespaces) {
                Ok(secret) => self.secrets.push(secret),
                Err(why) => self.unresolved = Some(why),
            }
        }
    }

    fn certificate(
        &self,
        reference: &CertificateRef,
        objects: &Objects,
        around: &Surroundings<'_>,
        secret_namespaces: &mut BTreeSet<Arc<str>>,
    ) -> Result<SecretRef, Why> {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        let own = self.gateway.namespace();
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let name = &reference.name;
        if !group.is_empty() || kind != "Secret" {
            return Err((
                "InvalidCertificateRef",
                format!("tls.certificateRefs: {kind} {name} is no Secret"),
            ));
        }
        let to = Target {
            group,
            kind,
            namespace,
            name,
        };
        if !grants::allows(objects, "Gateway", own, to) {
            return Err((
                "RefNotPermitted",
                format!(
                    "tls.certificateRefs: no ReferenceGrant in {namespace} lets Gateways of {own} use Secret {name}"
                ),
            ));
        }
        secret_namespaces.insert(namespace.into());
        match around.secrets.key_pair(namespace, name) {
            Ok(_) | Err(NoSecret::Unread(_)) => Ok(SecretRef {
                namespace: namespace.into(),
                name: name.as_str().into(),
            }),
            Err(why) => Err((
                "InvalidCertificateRef",
                format!("tls.certificateRefs: {why}"),
            )),
        }
    }

    /// Whether its port is to be opened.
    pub(super) fn is_accepted(&self) -> bool {
        self.refused.is_none() && self.conflict.is_none()
    }

    /// Whether it serves anything.
    pub(super) fn is_open(&self) -> bool {
        let keyless = self.written.protocol == "HTTPS" && self.secrets.is_empty();
        self.is_accepted() && !self.kinds.is_empty() && !keyless
    }

    fn object_name(&self) -> String {
        format!(
            "{}-istio-autogenerated-k8s-gateway-{}",
            self.gateway.name(),
            self.written.name
        )
    }

    /// The gateway with this listener as its only server.
    pub(super) fn gateway(&self, selector: &Labels, namespace: &Arc<str>) -> Gateway {
        let https = self.written.protocol == "HTTPS";
        let own = meta("Gateway", &self.gateway.metadata);
        Gateway {
            meta: Meta {
                object: ObjectRef::new("Gateway", self.gateway.namespace(), &self.object_name()),
                ..own
            },
            selector: selector.clone(),
            pods_in: Some(Arc::clone(namespace)),
            servers: vec![Server {
                name: self.written.name.as_str().into(),
                port: self.written.port,
                port_name: self.written.name.as_str().into(),
                protocol: if https {
                    Protocol::Https
                } else {
                    Protocol::Http
                },
                bind: None,
                hosts: vec![ServerHost {
                    namespace: None,
                    host: self.hostname.clone(),
                }],
                tls: https.then(|| ServerTls {
                    granted: self.secrets.clone(),
                    ..ServerTls::new(ServerTlsMode::Simple)
                }),
            }],
        }
    }

    /// What its routes say, a rule set for each host.
    pub(super) fn virtual_services(&self) -> Vec<Arc<VirtualService>> {
        let gateway: Arc<str> =
            format!("{}/{}", self.gateway.namespace(), self.object_name()).into();
        let rules = self.rules.iter();
        rules
            .filter_map(|(host, rules)| {
                let (meta, http) = in_order(rules)?;
                Some(Arc::new(VirtualService {
                    meta,
                    hosts: vec![host.clone()],
                    gateways: vec![Arc::clone(&gateway)],
                    http,
                    tls: Vec::new(),
                    tcp: Vec::new(),
                    visibility: Visibility::Public,
                }))
            })
            .collect()
    }

    pub(super) fn status(&self, before: &Value, now: &str) -> Value {
        let mut conditions = Conditions::new(before, self.gateway.generation(), now);
        let mut set = |name, good: &'static str, why: Option<&Why>, message: &str| match why {
            None => conditions.set(name, true, good, message),
            Some((reason, message)) => conditions.set(name, false, reason, message),
        };
        let refused = self.refused.as_ref().or(self.conflict.as_ref());
        set("Accepted", "Accepted", refused, "the listener is in force");
        set(
            "ResolvedRefs",
            "ResolvedRefs",
            self.unresolved.as_ref(),
            "everything it refers to is there",
        );
        let closed = ("Invalid", "the listener is not in force".to_owned());
        set(
            "Programmed",
            "Programmed",
            (!self.is_open()).then_some(&closed),
            "the gateway's pods serve it",
        );
        match &self.conflict {
            None => conditions.set(
                "Conflicted",
                false,
                "NoConflicts",
                "no other listener clashes with it",
            ),
            Some((reason, message)) => conditions.set("Conflicted", true, reason, message),
        }
        let kinds: Vec<Value> = self
            .kinds
            .iter()
            .map(|kind| json!({"group": GROUP, "kind": kind.name()}))
            .collect();
        json!({
            "name": self.written.name, "attachedRoutes": self.attached.len(), "supportedKinds": kinds,
            "conditions": conditions.finish(),
        })
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
