//! `envoy.filters.network.ext_authz`: another service says whether a connection may go on.

use std::sync::Arc;

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::grpc_service::GrpcService;
use crate::http_filter::AuthzService;
use crate::metadata_matcher::MetadataMatcher;
use crate::pb::core;
use crate::pb::extensions::filters::network::ext_authz::v3 as pb;

/// `ExtAuthz`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkAuthz {
    /// Between `ext_authz.` and the names of statistics.
    pub stat_prefix: Arc<str>,
    /// Who is asked.
    pub service: GrpcService,
    /// Connections go on where the service gives no answer.
    pub allow_failure: bool,
    /// The client's certificate is shown.
    pub certificate: bool,
    /// The server name of TLS is shown.
    pub tls_session: bool,
    /// Only connections are asked about of which the filters before have noted this.
    pub enabled_metadata: Option<MetadataMatcher>,
}

impl NetworkAuthz {
    pub(super) fn parse(wire: pb::ExtAuthz, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::ExtAuthz {
            stat_prefix,
            grpc_service,
            failure_mode_allow,
            include_peer_certificate,
            transport_api_version,
            filter_enabled_metadata,
            bootstrap_metadata_labels_key,
            include_tls_session,
            send_tls_alert_on_denial,
            metadata_context_namespaces,
            typed_metadata_context_namespaces,
            shadow_mode,
        } = wire;
        refuse!(cx; bootstrap_metadata_labels_key, shadow_mode);
        // Metadata is not told, and a closed connection tells enough.
        ignorable!(cx; send_tls_alert_on_denial, metadata_context_namespaces,
            typed_metadata_context_namespaces);
        if stat_prefix.is_empty() {
            return Err(cx.invalid("stat_prefix", "is required"));
        }
        if transport_api_version == core::ApiVersion::V2 as i32 {
            return Err(cx.invalid("transport_api_version", "V2 is no more; use V3"));
        }
        let service = cx.required("grpc_service", grpc_service)?;
        let service = match AuthzService::grpc(service, cx)? {
            AuthzService::Grpc(service) => service,
            AuthzService::Http(_) => return Err(cx.invalid("grpc_service", "is required")),
        };
        Ok(Self {
            stat_prefix: stat_prefix.into(),
            service,
            allow_failure: failure_mode_allow,
            certificate: include_peer_certificate,
            tls_session: include_tls_session,
            enabled_metadata: filter_enabled_metadata
                .map(|wire| {
                    cx.field("filter_enabled_metadata", |cx| {
                        MetadataMatcher::parse(wire, cx)
                    })
                })
                .transpose()?,
        })
    }
}
