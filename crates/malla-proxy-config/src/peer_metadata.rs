//! How proxies tell each other who they are: headers of requests and responses, and a preamble on connections of bytes.

use malla_xds_proto::istio_filters as pb;

use crate::checked::{Cx, Invalid, ignorable};

/// `io.istio.http.peer_metadata.Config`. Whatever it says, the headers of a request end here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerMetadata {
    /// Learn from requests who calls.
    pub from_requests: bool,
    /// Learn from responses who answers.
    pub from_responses: bool,
    /// Tell callers that told of themselves.
    pub in_responses: bool,
    /// Tell who is called.
    pub in_requests: Option<Telling>,
    /// Labels told beside those of the mesh.
    pub labels: Vec<String>,
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Everybody.
    Anybody,
    /// Only what is in the mesh.
    InMesh,
}

/// `envoy.tcp.metadataexchange.config.MetadataExchange`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataExchange {
    /// The ALPN protocol that says that the peer does it too.
    pub protocol: String,
    /// Labels told beside those of the mesh.
    pub labels: Vec<String>,
}

/// Labels beyond so many are no metadata but a burden.
const MOST_LABELS: usize = 32;

fn labels(labels: Vec<String>, cx: &mut Cx) -> Vec<String> {
    if labels.len() > MOST_LABELS {
        cx.warn(
            "additional_labels",
            format!("only the first {MOST_LABELS} are told"),
        );
    }
    labels.into_iter().take(MOST_LABELS).collect()
}

impl PeerMetadata {
    pub(crate) fn parse(wire: pb::PeerMetadataConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::PeerMetadataConfig {
            downstream_discovery,
            upstream_discovery,
            downstream_propagation,
            upstream_propagation,
            shared_with_upstream,
            additional_labels,
        } = wire;
        // For listeners inside of the proxy, which this one has none of.
        ignorable!(cx; shared_with_upstream);
        let in_requests = told("upstream_propagation", &upstream_propagation, cx);
        Ok(Self {
            from_requests: by_headers("downstream_discovery", &downstream_discovery, cx),
            from_responses: by_headers("upstream_discovery", &upstream_discovery, cx),
            in_responses: told("downstream_propagation", &downstream_propagation, cx).is_some(),
            in_requests,
            labels: labels(additional_labels, cx),
        })
    }
}

fn by_headers(field: &str, methods: &[pb::DiscoveryMethod], cx: &mut Cx) -> bool {
    let mut found = false;
    for (index, method) in methods.iter().enumerate() {
        match method.method_specifier {
            Some(pb::DiscoverySpecifier::IstioHeaders(_)) => found = true,
            // What endpoints say of themselves does as well, and is always looked at.
            Some(pb::DiscoverySpecifier::WorkloadDiscovery(_)) | None => {}
            Some(pb::DiscoverySpecifier::Baggage(_)) => cx.warn(
                &format!("{field}[{index}].baggage"),
                "has no effect in this proxy",
            ),
        }
    }
    found
}

fn told(field: &str, methods: &[pb::PropagationMethod], cx: &mut Cx) -> Option<Telling> {
    let mut telling = None;
    for (index, method) in methods.iter().enumerate() {
        match method.method_specifier {
            Some(pb::PropagationSpecifier::IstioHeaders(headers)) => {
                telling = Some(if headers.skip_external_clusters {
                    Telling::InMesh
                } else {
                    Telling::Anybody
                });
            }
            None => cx.warn(&format!("{field}[{index}]"), "has no effect in this proxy"),
        }
    }
    telling
}

impl MetadataExchange {
    pub(crate) fn parse(wire: pb::MetadataExchange, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::MetadataExchange {
            protocol,
            // Endpoints' metadata is always looked at.
            enable_discovery: _,
            additional_labels,
        } = wire;
        if protocol.is_empty() {
            return Err(cx.invalid("protocol", "is required"));
        }
        Ok(Self {
            protocol,
            labels: labels(additional_labels, cx),
        })
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::istio_filters as pb;
    use serde_json::json;

    use super::{MetadataExchange, PeerMetadata, Telling};
    use crate::checked::Cx;

    #[test]
    fn an_outbound_sidecar_tells_the_mesh_and_learns_from_answers() {
        let any = malla_xds_proto::json::any_from_value(json!({
            "@type": "type.googleapis.com/io.istio.http.peer_metadata.Config",
            "upstream_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}],
            "upstream_propagation": [{"istio_headers": {"skip_external_clusters": true}}],
            "shared_with_upstream": true,
        }))
        .unwrap();
        let checked = Cx::check(|cx| PeerMetadata::parse(cx.unpack("", &any)?, cx)).unwrap();
        let wanted = PeerMetadata {
            from_responses: true,
            in_requests: Some(Telling::InMesh),
            ..PeerMetadata::default()
        };
        assert_eq!(checked.value, wanted);
        assert_eq!(checked.warnings.len(), 1);
    }

    #[test]
    fn an_exchange_needs_a_protocol() {
        let none = Cx::check(|cx| MetadataExchange::parse(pb::MetadataExchange::default(), cx));
        assert_eq!(none.unwrap_err().path, "protocol");
    }
}
