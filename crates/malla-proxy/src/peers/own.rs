//! What this proxy tells of its own workload: from the node it introduces itself to the control plane with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use malla_xds_proto::any;
use malla_xds_proto::core::Node;
use malla_xds_proto::pb::google::protobuf::value::Kind;
use malla_xds_proto::pb::google::protobuf::{Struct, Value};
use malla_xds_proto::wkt::{self, get_str};
use prost::Message;

use super::MAGIC;
use super::decode::{CANONICAL_NAME, CANONICAL_REVISION, ID, METADATA, Peer};

/// This proxy's workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    /// As others are to know it.
    pub peer: Peer,
    /// `istio_build`'s tag: `ISTIO_VERSION`, or this proxy's own.
    pub version: String,
    id: String,
    metadata: Struct,
}

impl Own {
    /// Reads a node's id and Istio's metadata.
    pub fn from_node(node: &Node) -> Self {
        let metadata = node.metadata.clone().unwrap_or_default();
        let mut peer = Peer::from_struct(&metadata);
        let label = |names: &[&str]| names.iter().find_map(|name| self::label(&metadata, name));
        if peer.service.is_empty() {
            let name = label(&["app.kubernetes.io/name", "app"]);
            peer.service = name.unwrap_or(&peer.workload).into();
        }
        if peer.revision.is_empty() {
            let revision = label(&["app.kubernetes.io/version", "version"]);
            peer.revision = revision.unwrap_or("latest").into();
        }
        let version = get_str(&metadata, "ISTIO_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
        Self {
            peer,
            version: version.to_owned(),
            id: node.id.clone(),
            metadata,
        }
    }

    /// The header `x-envoy-peer-metadata-id`; `None` if the id cannot be one.
    pub fn id(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.id).ok()
    }

    /// The header `x-envoy-peer-metadata`, with these labels beside the usual ones.
    pub fn header(&self, labels: &[String]) -> Option<HeaderValue> {
        let told = any::encode(&self.told(labels));
        HeaderValue::try_from(STANDARD.encode(told)).ok()
    }

    /// The preamble of a connection of bytes.
    pub fn preamble(&self, labels: &[String]) -> Vec<u8> {
        let metadata = Value {
            kind: Some(Kind::StructValue(self.told(labels))),
        };
        let told = wkt::structure([(METADATA, metadata), (ID, wkt::string(&self.id))]);
        let any = any::pack(&told).encode_to_vec();
        let length = u32::try_from(any.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&MAGIC[..], &length, &any].concat()
    }

    /// What is told: Istio's `convertWorkloadMetadataToStruct`.
    pub fn told(&self, more: &[String]) -> Struct {
        let peer = &self.peer;
        let mut labels: Vec<(&str, Value)> = Vec::new();
        let mut put = |key, value: &str| {
            if !value.is_empty() {
                labels.push((key, wkt::string(value)));
            }
        };
        put("app", &peer.app);
        put("version", &peer.version);
        put(CANONICAL_NAME, &peer.service);
        put(CANONICAL_REVISION, &peer.revision);
        for key in more {
            put(key, label(&self.metadata, key).unwrap_or_default());
        }
        let owner = get_str(&self.metadata, "OWNER").unwrap_or_default();
        let mut fields: Vec<(&str, Value)> = [
            ("NAME", &*peer.name),
            ("NAMESPACE", &*peer.namespace),
            ("CLUSTER_ID", &*peer.cluster),
            ("WORKLOAD_NAME", &*peer.workload),
            ("OWNER", owner),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key, wkt::string(value)))
        .collect();
        fields.push(("LABELS", wkt::object(labels)));
        wkt::structure(fields)
    }

    /// A text somewhere in the node's metadata.
    pub fn metadata(&self, path: &[String]) -> Option<&str> {
        let (last, above) = path.split_last()?;
        let mut at = &self.metadata;
        for key in above {
            match at.fields.get(key)?.kind.as_ref()? {
                Kind::StructValue(below) => at = below,
                _ => return None,
            }
        }
        get_str(at, last)
    }
}

fn label<'a>(metadata: &'a Struct, key: &str) -> Option<&'a str> {
    match metadata.fields.get("LABELS")?.kind.as_ref()? {
        Kind::StructValue(labels) => get_str(labels, key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::core::Node;
    use malla_xds_proto::wkt;

    use super::Own;
    use crate::peers::{decode_peer, decode_preamble};

    fn own() -> Own {
        let labels = [
            ("app", wkt::string("cart")),
            ("version", wkt::string("v2")),
            ("team", wkt::string("shop")),
        ];
        Own::from_node(&Node {
            id: "sidecar~10.0.0.1~cart-1.base~base.svc.cluster.local".into(),
            metadata: Some(wkt::structure([
                ("NAME", wkt::string("cart-1")),
                ("NAMESPACE", wkt::string("base")),
                ("WORKLOAD_NAME", wkt::string("cart-v2")),
                ("CLUSTER_ID", wkt::string("zone-a")),
                (
                    "OWNER",
                    wkt::string("kubernetes://apis/apps/v1/namespaces/base/deployments/cart-v2"),
                ),
                ("LABELS", wkt::object(labels)),
            ])),
            ..Node::default()
        })
    }

    #[test]
    fn what_is_told_is_what_is_read() {
        let own = own();
        assert_eq!((&*own.peer.service, &*own.peer.revision), ("cart", "v2"));
        let header = own.header(&[]).unwrap();
        assert_eq!(decode_peer(header.as_bytes()).unwrap(), own.peer);
        assert_eq!(own.header(&[]), own.header(&[]), "the same bytes each time");
        let preamble = own.preamble(&[]);
        let (head, any) = preamble.split_at(8);
        assert_eq!(head[..4], [0x3d, 0x23, 0x04, 0x67]);
        assert_eq!(
            u32::from_be_bytes(head[4..].try_into().unwrap()) as usize,
            any.len()
        );
        assert_eq!(decode_preamble(any).unwrap(), own.peer);
        assert!(own.header(&["team".into()]).unwrap().len() > header.len());
    }

    #[test]
    fn metadata_is_found_by_its_path() {
        let own = own();
        let at = |path: &[&str]| {
            let path: Vec<String> = path.iter().map(ToString::to_string).collect();
            own.metadata(&path).map(str::to_owned)
        };
        assert_eq!(at(&["LABELS", "team"]).as_deref(), Some("shop"));
        assert_eq!(at(&["NAME"]).as_deref(), Some("cart-1"));
        assert_eq!(at(&["NAME", "x"]), None);
        assert_eq!(at(&[]), None);
    }
}
