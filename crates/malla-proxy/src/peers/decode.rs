//! What a peer tells of itself, read from hostile bytes.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use malla_xds_proto::pb::google::protobuf::Struct;
use malla_xds_proto::pb::google::protobuf::value::Kind;
use malla_xds_proto::wkt::get_str;
use malla_xds_proto::{Any, any};
use prost::Message;

/// Longer metadata is nobody's: a workload's takes some hundred bytes.
pub const LONGEST: usize = 16 << 10;
/// No name in Kubernetes is longer than 253.
const LONGEST_TEXT: usize = 253;

pub(super) const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
pub(super) const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

/// Base64 with or without padding: Envoy writes it and does not ask for it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A workload, as far as metrics name it; what is not known is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Of the pod.
    pub name: Box<str>,
    pub namespace: Box<str>,
    /// Of the deployment or whatever else made the pod.
    pub workload: Box<str>,
    /// The label `app`.
    pub app: Box<str>,
    /// The label `version`.
    pub version: Box<str>,
    /// Canonical service.
    pub service: Box<str>,
    /// Canonical revision.
    pub revision: Box<str>,
    pub cluster: Box<str>,
}

/// Reads the header `x-envoy-peer-metadata`; `None` if it is not one. Never panics, whatever it is given.
pub fn decode_peer(header: &[u8]) -> Option<Peer> {
    if header.len() > LONGEST {
        return None;
    }
    let bytes = BASE64.decode(header).ok()?;
    Some(Peer::from_struct(&Struct::decode(&*bytes).ok()?))
}

/// Where a preamble's `Struct` has what a header is the base64 of, and the id.
pub(super) const METADATA: &str = "x-envoy-peer-metadata";
pub(super) const ID: &str = "x-envoy-peer-metadata-id";

/// Reads the `Any` of a preamble; `None` if it is not one. Never panics, whatever it is given.
pub fn decode_preamble(any: &[u8]) -> Option<Peer> {
    if any.len() > LONGEST {
        return None;
    }
    let told: Struct = any::unpack(&Any::decode(any).ok()?).ok()?;
    match told.fields.get(METADATA)?.kind.as_ref()? {
        Kind::StructValue(metadata) => Some(Peer::from_struct(metadata)),
        _ => None,
    }
}

impl Peer {
    /// Istio's `convertStructToWorkloadMetadata`.
    pub(super) fn from_struct(metadata: &Struct) -> Self {
        let get = |key| text(get_str(metadata, key).unwrap_or_default());
        let labels = match metadata
            .fields
            .get("LABELS")
            .and_then(|value| value.kind.as_ref())
        {
            Some(Kind::StructValue(labels)) => Some(labels),
            _ => None,
        };
        let label = |key| {
            let value = labels.and_then(|labels| get_str(labels, key));
            text(value.unwrap_or_default())
        };
        Self {
            name: get("NAME"),
            namespace: get("NAMESPACE"),
            workload: get("WORKLOAD_NAME"),
            app: label("app"),
            version: label("version"),
            service: label(CANONICAL_NAME),
            revision: label(CANONICAL_REVISION),
            cluster: get("CLUSTER_ID"),
        }
    }

    /// The `istio.workload` of an endpoint: `name;namespace;canonical name;canonical revision;cluster`.
    pub(super) fn from_endpoint(workload: &str) -> Self {
        let mut parts = workload.splitn(5, ';');
        let mut next = || text(parts.next().unwrap_or_default());
        Self {
            workload: next(),
            namespace: next(),
            service: next(),
            revision: next(),
            cluster: next(),
            ..Self::default()
        }
    }
}

/// A text that may stand in a label: bounded, and without control characters.
fn text(value: &str) -> Box<str> {
    let mut end = value.len().min(LONGEST_TEXT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = value.get(..end).unwrap_or_default();
    if value.chars().any(char::is_control) {
        return value.chars().filter(|c| !c.is_control()).collect();
    }
    value.into()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use malla_xds_proto::wkt;
    use proptest::prelude::{any, prop, proptest};
    use prost::Message;

    use super::{BASE64, LONGEST, LONGEST_TEXT, Peer, decode_peer, decode_preamble};

    fn header(name: &str, app: &str) -> String {
        let labels = [("app", wkt::string(app)), ("version", wkt::string("v1"))];
        let metadata = wkt::structure([
            ("NAME", wkt::string(name)),
            ("WORKLOAD_NAME", wkt::string("cart")),
            ("LABELS", wkt::object(labels)),
        ]);
        BASE64.encode(metadata.encode_to_vec())
    }

    #[test]
    fn a_header_of_a_proxy_is_read() {
        let padded = header("cart-1", "cart");
        for header in [padded.as_str(), padded.trim_end_matches('=')] {
            let peer = decode_peer(header.as_bytes()).unwrap();
            assert_eq!(
                (&*peer.name, &*peer.workload, &*peer.app),
                ("cart-1", "cart", "cart")
            );
            assert_eq!((&*peer.version, &*peer.service), ("v1", ""));
        }
    }

    #[test]
    fn texts_are_bounded_and_printable() {
        let long = "é".repeat(1000);
        let peer = decode_peer(header(&long, "a\nb\u{7f}").as_bytes()).unwrap();
        assert!(peer.name.len() <= LONGEST_TEXT && peer.name.starts_with('é'));
        assert_eq!(&*peer.app, "ab");
    }

    #[test]
    fn what_is_no_metadata_is_no_peer() {
        for header in ["!", "AAAA", &"A".repeat(LONGEST + 4)] {
            assert_eq!(decode_peer(header.as_bytes()), None, "{header}");
        }
        assert_eq!(decode_peer(b""), Some(Peer::default()));
    }

    #[test]
    fn an_endpoint_tells_five_things() {
        let peer = Peer::from_endpoint("cart-v1;base;cart;v1;zone-a");
        assert_eq!((&*peer.workload, &*peer.namespace), ("cart-v1", "base"));
        assert_eq!(
            (&*peer.service, &*peer.revision, &*peer.cluster),
            ("cart", "v1", "zone-a")
        );
        assert_eq!(Peer::from_endpoint(""), Peer::default());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_preamble(&bytes);
            let _ = decode_peer(&bytes);
            let _ = decode_peer(BASE64.encode(&bytes).as_bytes());
        }
    }
}
