//! Listeners: whether each can be opened, and what it becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::gateway::{SecretRef, Server, ServerHost, ServerTls, ServerTlsMode};
use malla_model::id::{Labels, Meta};
use malla_model::route::{TcpRoute, TlsMatch, TlsRoute, WeightedDestination};
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

const HTTP: &[GatewayKind] = &[GatewayKind::HttpRoute, GatewayKind::GrpcRoute];
const PASSTHROUGH: &[GatewayKind] = &[GatewayKind::TlsRoute];
const TERMINATED: &[GatewayKind] = &[GatewayKind::TlsRoute, GatewayKind::TcpRoute];
const TCP: &[GatewayKind] = &[GatewayKind::TcpRoute];

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
    /// Rules of requests, by host.
    rules: BTreeMap<Host, Vec<Ordered>>,
    /// Where connections go, by host, and whose word that is.
    connections: BTreeMap<Host, (Arc<Meta>, Vec<WeightedDestination>)>,
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
            hostname: hostname(written),
            kinds: Vec::new(),
            rivals: Vec::new(),
            refused: None,
            conflict: None,
            unresolved: None,
            secrets: Vec::new(),
            attached: Vec::new(),
            rules: BTreeMap::new(),
            connections: BTreeMap::new(),
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
    // A handshake's name tells listeners for TLS apart, whatever is within.
    let spoken = |listener: &Listener<'_>| match listener.written.protocol.as_str() {
        "HTTPS" => "TLS".to_owned(),
        other => other.to_owned(),
    };
    if spoken(earlier) != spoken(listener) {
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
        if !matches!(protocol, "HTTP" | "HTTPS" | "TLS" | "TCP") {
            self.refused = Some((
                "UnsupportedProtocol",
                format!(
                    "protocol {protocol:?} is not supported (expected HTTP, HTTPS, TLS or TCP)"
                ),
            ));
        }
        if self.written.port == 0 {
            self.refused = Some(("PortUnavailable", "port 0 cannot be opened".to_owned()));
        }
    }

    /// The kinds of routes that its protocol can carry.
    pub(super) fn carries(&self) -> &'static [GatewayKind] {
        match self.written.protocol.as_str() {
            "HTTP" | "HTTPS" => HTTP,
            "TLS" if self.terminates() => TERMINATED,
            "TLS" => PASSTHROUGH,
            "TCP" => TCP,
            _ => &[],
        }
    }

    /// Whether TLS ends here.
    fn terminates(&self) -> bool {
        let mode = self
            .written
            .tls
            .as_ref()
            .and_then(|tls| tls.mode.as_deref());
        match self.written.protocol.as_str() {
            "HTTPS" => true,
            "TLS" => mode != Some("Passthrough"),
            _ => false,
        }
    }

    /// Attaches a route, for names that both have.
    ///
    /// # Errors
    /// When routes that take precedence have the names: routes for HTTP and for gRPC share none, and
    /// connections with a name all go where one route says.
    pub(super) fn take(&mut self, route: &Route<'_>, hosts: Vec<Host>) -> Result<(), String> {
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
        if !self.terminates() {
            return;
        }
        let empty = types::ListenerTls::default();
        let tls = self.written.tls.as_ref().unwrap_or(&empty);
        if tls.mode.as_deref().is_some_and(|mode| mode != "Terminate") {
            let allowed = match self.written.protocol.as_str() {
                "TLS" => "expected Terminate or Passthrough",
                _ => "HTTPS listeners can only Terminate",
            };
            self.refused = Some(("UnsupportedValue", format!("tls.mode: {allowed}")));
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
        let keyless = self.terminates() && self.secrets.is_empty();
        self.is_accepted() && !self.kinds.is_empty() && !keyless
    }

    fn object_name(&self) -> String {
        format!(
            "{}-istio-autogenerated-k8s-gateway-{}",
            self.gateway.name(),
            self.written.name
        )
    }

    /// The gateways with this listener as their only server. Where TLS ends and no HTTP is within, each
    /// name has a gateway of its own, since the names are all that tells its connections apart.
    pub(super) fn gateways(&self, selector: &Labels, namespace: &Arc<str>) -> Vec<Gateway> {
        let gateway = |name: String, host: &Host| Gateway {
            meta: Meta {
                object: ObjectRef::new("Gateway", self.gateway.namespace(), &name),
                ..meta("Gateway", &self.gateway.metadata)
            },
            selector: selector.clone(),
            pods_in: Some(Arc::clone(namespace)),
            servers: vec![self.server(host)],
        };
        if self.ends_without_http() {
            let hosts = self.connections.keys();
            hosts
                .map(|host| gateway(self.name_for(host), host))
                .collect()
        } else {
            vec![gateway(self.object_name(), &self.hostname)]
        }
    }

    fn ends_without_http(&self) -> bool {
        self.written.protocol == "TLS" && self.terminates()
    }

    /// The name of the gateway that serves a host.
    fn name_for(&self, host: &Host) -> String {
        let name = self.object_name();
        if self.ends_without_http() && *host != self.hostname {
            format!("{name}~{host}")
        } else {
            name
        }
    }

    fn server(&self, host: &Host) -> Server {
        let mode = if self.terminates() {
            ServerTlsMode::Simple
        } else {
            ServerTlsMode::Passthrough
        };
        let protocol = match self.written.protocol.as_str() {
            "HTTPS" => Protocol::Https,
            "TLS" => Protocol::Tls,
            "TCP" => Protocol::Tcp,
            _ => Protocol::Http,
        };
        let tls = matches!(protocol, Protocol::Https | Protocol::Tls);
        Server {
            name: self.written.name.as_str().into(),
            port: self.written.port,
            port_name: self.written.name.as_str().into(),
            protocol,
            bind: None,
            hosts: vec![ServerHost {
                namespace: None,
                host: host.clone(),
            }],
            tls: tls.then(|| ServerTls {
                granted: self.secrets.clone(),
                ..ServerTls::new(mode)
            }),
        }
    }

    /// What its routes say, a rule set for each host.
    pub(super) fn virtual_services(&self) -> Vec<Arc<VirtualService>> {
        let set = |host: &Host, meta: Meta| VirtualService {
            meta,
            hosts: vec![host.clone()],
            gateways: vec![format!("{}/{}", self.gateway.namespace(), self.name_for(host)).into()],
            http: Vec::new(),
            tls: Vec::new(),
            tcp: Vec::new(),
            visibility: Visibility::Public,
        };
        let requests = self.rules.iter().filter_map(|(host, rules)| {
            let (meta, http) = in_order(rules)?;
            Some(VirtualService {
                http,
                ..set(host, meta)
            })
        });
        let connections = self.connections.iter().map(|(host, (meta, to))| {
            let set = set(host, Meta::clone(meta));
            if self.carries() == PASSTHROUGH {
                VirtualService {
                    tls: vec![by_name(vec![host.clone()], None, to.clone())],
                    ..set
                }
            } else {
                VirtualService {
                    tcp: vec![TcpRoute {
                        matches: Vec::new(),
                        destinations: to.clone(),
                    }],
                    ..set
                }
            }
        });
        requests.chain(connections).map(Arc::new).collect()
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

/// The name that a listener serves.
fn hostname(written: &types::Listener) -> Host {
    let name = written.hostname.as_deref().filter(|name| !name.is_empty());
    // Bytes say nothing of a name.
    let name = name.filter(|_| written.protocol != "TCP");
    Host::new(name.unwrap_or("*"))
}

/// Connections whose handshake has one of these names, to a port (any, if none is said).
pub(super) fn by_name(
    sni_hosts: Vec<Host>,
    port: Option<u16>,
    destinations: Vec<WeightedDestination>,
) -> TlsRoute {
    let mut of = TlsMatch {
        sni_hosts,
        ..TlsMatch::default()
    };
    of.scope.port = port;
    TlsRoute {
        matches: vec![of],
        destinations,
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
