//! The proxy that is asking: who it is, where it runs and what it can do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use malla_model::id::Labels;
use malla_model::workload::Locality;
use malla_xds_proto::core::Node;
use malla_xds_proto::pb::google::protobuf::Struct;
use malla_xds_proto::pb::google::protobuf::value::Kind;
use malla_xds_proto::wkt::get_str;

/// What a proxy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// Beside a workload.
    Sidecar,
    /// A gateway.
    Router,
}

/// Which extensions the proxy has, so that it is never sent one it would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// Stock Envoy without Istio's filters.
    #[default]
    PlainEnvoy,
    /// Malla's own proxy.
    Malla,
}

/// How traffic reaches a sidecar (Istio: `ISTIO_META_INTERCEPTION_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Interception {
    #[default]
    Redirect,
    Tproxy,
    /// Nothing is captured.
    None,
}

/// All that translation looks at of a proxy. Equal views get equal resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeView {
    pub kind: NodeKind,
    pub profile: Profile,
    /// Of the pod.
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// The first is the one other proxies know it by.
    pub addresses: Vec<IpAddr>,
    pub labels: Labels,
    pub service_account: Arc<str>,
    pub locality: Locality,
    /// The machine it runs on; endpoints there are "local".
    pub machine: Arc<str>,
    pub interception: Interception,
    /// Takes HTTP/1.0 requests (`ISTIO_META_HTTP10`).
    pub http10: bool,
    /// Answers DNS queries of its workload (`ISTIO_META_DNS_CAPTURE`).
    pub dns_capture: bool,
    /// May not open ports below 1024 (`ISTIO_META_UNPRIVILEGED_POD`).
    pub unprivileged: bool,
    /// Of Istio's it stands in for (`ISTIO_META_ISTIO_VERSION`); empty where it says none.
    pub version: Arc<str>,
    /// Texts of its metadata, which EnvoyFilters may look at.
    pub metadata: BTreeMap<String, String>,
    /// Nobody vouches for its labels: it carries no gateway, not even one that selects everything.
    pub stranger: bool,
}

/// Why a node's description cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("node.id {0:?} is not TYPE~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN")]
    Id(String),
    #[error("node.id {id:?}: type {kind:?} is not supported (expected sidecar or router)")]
    Kind { id: String, kind: String },
    #[error("node.id {id:?}: {address:?} is not an IP address")]
    Address { id: String, address: String },
}

impl NodeView {
    /// A node with nothing but its place; for tests and simulations.
    #[must_use]
    pub fn new(kind: NodeKind, name: &str, namespace: &str, address: IpAddr) -> Self {
        Self {
            kind,
            profile: Profile::default(),
            name: name.into(),
            namespace: namespace.into(),
            addresses: vec![address],
            labels: BTreeMap::new(),
            service_account: "default".into(),
            locality: Locality::default(),
            machine: "".into(),
            interception: Interception::default(),
            http10: false,
            dns_capture: false,
            unprivileged: false,
            version: "".into(),
            metadata: BTreeMap::new(),
            stranger: false,
        }
    }

    /// Reads what a proxy says of itself over xDS: an id in Istio's form and Istio's metadata.
    ///
    /// # Errors
    /// When the id has another form, or its type is not one this crate translates for.
    pub fn from_xds(node: &Node) -> Result<Self, NodeError> {
        let id = &node.id;
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, address, workload, domain] = parts[..] else {
            return Err(NodeError::Id(id.clone()));
        };
        let kind = match kind {
            "sidecar" => NodeKind::Sidecar,
            "router" => NodeKind::Router,
            other => {
                return Err(NodeError::Kind {
                    id: id.clone(),
                    kind: other.to_owned(),
                });
            }
        };
        let address = address.parse().map_err(|_| NodeError::Address {
            id: id.clone(),
            address: address.to_owned(),
        })?;
        let (name, _) = workload.rsplit_once('.').unwrap_or((workload, ""));
        let namespace = domain.split('.').next().unwrap_or_default();

        let empty = Struct::default();
        let meta = node.metadata.as_ref().unwrap_or(&empty);
        let mut view = Self::new(kind, name, namespace, address);
        view.read_metadata(meta);
        if let Some(locality) = &node.locality {
            view.locality = Locality {
                region: (*locality.region).into(),
                zone: (*locality.zone).into(),
                subzone: (*locality.sub_zone).into(),
            };
        }
        if node.user_agent_name == "malla" {
            view.profile = Profile::Malla;
        }
        Ok(view)
    }

    fn read_metadata(&mut self, meta: &Struct) {
        if let Some(namespace) = get_str(meta, "NAMESPACE") {
            self.namespace = namespace.into();
        }
        if let Some(name) = get_str(meta, "NAME") {
            self.name = name.into();
        }
        if let Some(account) = get_str(meta, "SERVICE_ACCOUNT") {
            self.service_account = account.into();
        }
        if let Some(machine) = get_str(meta, "NODE_NAME") {
            self.machine = machine.into();
        }
        for ip in get_str(meta, "INSTANCE_IPS").unwrap_or_default().split(',') {
            if let Ok(ip) = ip.trim().parse()
                && !self.addresses.contains(&ip)
            {
                self.addresses.push(ip);
            }
        }
        self.labels = labels(meta);
        self.interception = match get_str(meta, "INTERCEPTION_MODE") {
            Some("TPROXY") => Interception::Tproxy,
            Some("NONE") => Interception::None,
            _ => Interception::Redirect,
        };
        self.version = get_str(meta, "ISTIO_VERSION").unwrap_or_default().into();
        self.metadata = texts(meta);
        self.http10 = flag(meta, "HTTP10");
        self.dns_capture = flag(meta, "DNS_CAPTURE");
        self.unprivileged = flag(meta, "UNPRIVILEGED_POD");
    }

    /// Whether any address is of the Internet protocol's version 6, so that its own addresses must be too.
    #[must_use]
    pub fn ipv6_only(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(IpAddr::is_ipv6)
    }
}

fn labels(meta: &Struct) -> Labels {
    let Some(Kind::StructValue(labels)) = meta.fields.get("LABELS").and_then(|v| v.kind.as_ref())
    else {
        return Labels::new();
    };
    texts(labels)
}

/// The members that are texts.
fn texts(object: &Struct) -> BTreeMap<String, String> {
    let keys = object.fields.keys();
    keys.filter_map(|key| Some((key.clone(), get_str(object, key)?.to_owned())))
        .collect()
}

/// Istio's flags are texts (from the environment) or JSON booleans.
fn flag(meta: &Struct, key: &str) -> bool {
    match meta.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(Kind::StringValue(text)) => matches!(&**text, "1" | "true" | "TRUE" | "True" | "t"),
        Some(Kind::BoolValue(on)) => *on,
        Some(Kind::NumberValue(number)) => *number == 1.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::core::Node;
    use malla_xds_proto::wkt;

    use super::{NodeError, NodeKind, NodeView};

    #[test]
    fn a_sidecar_says_who_it_is() {
        let node = Node {
            id: "sidecar~10.1.0.7~order-v1-abc.base~base.svc.cluster.local".into(),
            metadata: Some(wkt::structure([
                ("LABELS", wkt::object([("app", wkt::string("order"))])),
                ("SERVICE_ACCOUNT", wkt::string("sa")),
                ("INSTANCE_IPS", wkt::string("10.1.0.7,fd00::7")),
                ("HTTP10", wkt::string("1")),
            ])),
            ..Node::default()
        };
        let view = NodeView::from_xds(&node).unwrap();
        assert_eq!(view.kind, NodeKind::Sidecar);
        assert_eq!((&*view.name, &*view.namespace), ("order-v1-abc", "base"));
        assert_eq!(view.addresses.len(), 2);
        assert_eq!(view.labels["app"], "order");
        assert_eq!(&*view.service_account, "sa");
        assert!(view.http10 && !view.dns_capture);
    }

    #[test]
    fn odd_ids_are_refused_with_a_reason() {
        let of = |id: &str| {
            NodeView::from_xds(&Node {
                id: id.into(),
                ..Node::default()
            })
            .unwrap_err()
        };
        assert!(matches!(of("one"), NodeError::Id(_)));
        assert!(matches!(
            of("ztunnel~1.2.3.4~a.b~b.svc.x"),
            NodeError::Kind { .. }
        ));
        assert!(matches!(
            of("sidecar~here~a.b~b.svc.x"),
            NodeError::Address { .. }
        ));
    }
}
