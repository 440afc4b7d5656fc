//! The proxy that writes entries: who it is, from the node it introduces itself as.

use std::net::IpAddr;

use malla_xds_proto::core::Node;
use malla_xds_proto::pb::google::protobuf::Struct;
use malla_xds_proto::pb::google::protobuf::value::Kind;

use super::workloads::Workload;

/// As the scrape of the same pod calls it.
const JOB: &str = "kubernetes-pods";
/// The filter that counts, in Istio's build of Envoy.
const COUNTS_ITSELF: &str = "istio.stats";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) gateway: bool,
    pub(super) address: Option<IpAddr>,
    pub(super) pod: String,
    pub(super) workload: Workload,
}

impl Own {
    /// `None` when it is no Envoy, or one that counts itself.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let counts = node
            .extensions
            .iter()
            .any(|extension| extension.name == COUNTS_ITSELF);
        if node.user_agent_name != "envoy" || counts {
            return None;
        }
        // `sidecar~10.0.0.1~pod.namespace~namespace.svc.cluster.local`
        let mut parts = node.id.split('~');
        let kind = parts.next().unwrap_or_default();
        let address = parts.next().and_then(|text| text.parse().ok());
        let (pod, namespace) = parts.next().unwrap_or_default().rsplit_once('.')?;
        let empty = Struct::default();
        let metadata = node.metadata.as_ref().unwrap_or(&empty);
        let labels = match metadata.fields.get("LABELS").map(|value| &value.kind) {
            Some(Some(Kind::StructValue(labels))) => labels,
            _ => &empty,
        };
        let name = text(metadata, "WORKLOAD_NAME").unwrap_or(pod);
        let label = |name: &str| text(labels, name).map(str::to_owned);
        let workload = Workload {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            canonical_service: label("service.istio.io/canonical-name")
                .or_else(|| label("app.kubernetes.io/name"))
                .or_else(|| label("app"))
                .unwrap_or_else(|| name.to_owned()),
            canonical_revision: label("service.istio.io/canonical-revision")
                .or_else(|| label("app.kubernetes.io/version"))
                .or_else(|| label("version"))
                .unwrap_or_else(|| "latest".to_owned()),
            app: label("app").unwrap_or_default(),
            version: label("version").unwrap_or_default(),
            cluster: text(metadata, "CLUSTER_ID").unwrap_or_default().to_owned(),
            services: Vec::new(),
        };
        Some(Self {
            gateway: kind == "router",
            address,
            pod: pod.to_owned(),
            workload,
        })
    }

    /// The labels a scrape of its pod would put onto its series.
    pub(super) fn target_labels(&self) -> Vec<(&'static str, String)> {
        let app = match self.workload.app.as_str() {
            "" => &self.workload.name,
            _ => &self.workload.app,
        };
        let instance = match self.address {
            Some(IpAddr::V6(address)) => format!("[{address}]:15020"),
            Some(IpAddr::V4(address)) => format!("{address}:15020"),
            None => String::new(),
        };
        vec![
            ("job", JOB.to_owned()),
            ("namespace", self.workload.namespace.clone()),
            ("pod", self.pod.clone()),
            ("app", app.clone()),
            ("instance", instance),
        ]
    }
}

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}
