//! Listeners: whether each can be opened.

mod attached;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::gateway::SecretRef;
use malla_model::route::WeightedDestination;
use malla_model::secret::NoSecret;
use malla_model::{Host, Meta};
use serde_json::{Value, json};

use super::super::types::{self, CertificateRef, GatewaySpec, ListenerSetSpec};
use super::super::{GROUP, GatewayKind};
use super::attach::Ordered;
use super::grants::{self, Target};
use super::status::Conditions;
use super::{Object, Objects, Surroundings};
use attached::Attached;
pub(super) use model::by_name;

const HTTP: &[GatewayKind] = &[GatewayKind::HttpRoute, GatewayKind::GrpcRoute];
const PASSTHROUGH: &[GatewayKind] = &[GatewayKind::TlsRoute];
const TERMINATED: &[GatewayKind] = &[GatewayKind::TlsRoute, GatewayKind::TcpRoute];
const TCP: &[GatewayKind] = &[GatewayKind::TcpRoute];

/// A condition's reason and message.
pub(super) type Why = (&'static str, String);

/// The Gateway or ListenerSet that a listener is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner<'a> {
    pub(super) kind: GatewayKind,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// One listener of one Gateway.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) gateway: &'a Object<GatewaySpec>,
    pub(super) owner: Owner<'a>,
    /// Of its owner.
    generation: i64,
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

impl<'a> Owner<'a> {
    pub(super) fn gateway(gateway: &'a Object<GatewaySpec>) -> Self {
        Self {
            kind: GatewayKind::Gateway,
            namespace: gateway.namespace(),
            name: gateway.name(),
        }
    }

    pub(super) fn set(set: &'a Object<ListenerSetSpec>) -> Self {
        Self {
            kind: GatewayKind::ListenerSet,
            namespace: set.namespace(),
            name: set.name(),
        }
    }
}

/// The listeners of a Gateway in their order: its own, and those that `sets` add. Of two that clash
/// the first stays.
pub(super) fn of<'a>(
    gateway: &'a Object<GatewaySpec>,
    sets: &[&'a Object<ListenerSetSpec>],
    objects: &Objects,
    around: &Surroundings<'_>,
    secret_namespaces: &mut BTreeSet<Arc<str>>,
) -> Vec<Listener<'a>> {
    let mut listeners: Vec<Listener<'a>> = Vec::new();
    let own = (
        Owner::gateway(gateway),
        gateway.generation(),
        &gateway.spec.listeners,
    );
    let added = sets
        .iter()
        .map(|set| (Owner::set(set), set.generation(), &set.spec.listeners));
    let written = [own].into_iter().chain(added);
    let written = written.flat_map(|(owner, generation, list)| {
        list.iter().map(move |written| (owner, generation, written))
    });
    for (owner, generation, written) in written {
        let mut listener = Listener {
            gateway,
            owner,
            generation,
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
        let own = self.owner.namespace;
        let own_kind = self.owner.kind.name();
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
        if !grants::allows(objects, own_kind, own, to) {
            return Err((
                "RefNotPermitted",
                format!(
                    "tls.certificateRefs: no ReferenceGrant in {namespace} lets {own_kind}s of {own} use Secret {name}"
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

    pub(super) fn status(&self, before: &Value, now: &str) -> Value {
        let mut conditions = Conditions::new(before, self.generation, now);
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
