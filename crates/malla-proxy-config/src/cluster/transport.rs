//! Upstream transport sockets: plain text, TLS, PROXY protocol around either.

use std::sync::Arc;

use super::{ProxyProtocolVersion, Transport, TransportMatch};
use crate::checked::{Cx, Invalid, refuse, type_name};
use crate::metadata::parse_struct;
use crate::pb::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use crate::pb::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::pb::{cluster as pb, core, tls};
use crate::tls::UpstreamTls;

impl Transport {
    /// Plain text.
    pub const RAW: Self = Self {
        tls: None,
        proxy_protocol: None,
    };

    pub(crate) fn parse(wire: Option<core::TransportSocket>, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::transport_socket::ConfigType;
        let Some(core::TransportSocket { name, config_type }) = wire else {
            return Ok(Self::RAW);
        };
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            return match name.as_str() {
                "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(Self::RAW),
                _ => Err(cx.invalid("typed_config", "is required")),
            };
        };
        cx.field("typed_config", |cx| match type_name(&any).as_str() {
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
                let context: tls::UpstreamTlsContext = cx.unpack("", &any)?;
                Ok(Self { tls: Some(Arc::new(UpstreamTls::parse(context, cx)?)), proxy_protocol: None })
            }
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => {
                let RawBuffer {} = cx.unpack("", &any)?;
                Ok(Self::RAW)
            }
            "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport" => {
                Self::parse_proxy_protocol(cx.unpack("", &any)?, cx)
            }
            other => Err(cx.invalid("", format!("transport socket {other} is not supported by this proxy"))),
        })
    }

    fn parse_proxy_protocol(
        wire: ProxyProtocolUpstreamTransport,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use core::proxy_protocol_config::Version;
        let ProxyProtocolUpstreamTransport {
            config,
            transport_socket,
            allow_unspecified_address,
            tlv_as_pool_key,
        } = wire;
        refuse!(cx; allow_unspecified_address, tlv_as_pool_key);
        let core::ProxyProtocolConfig {
            version,
            pass_through_tlvs,
            added_tlvs,
        } = config.unwrap_or_default();
        refuse!(cx; pass_through_tlvs, added_tlvs);
        let version = match cx.enumeration("config.version", version)? {
            Version::V1 => ProxyProtocolVersion::V1,
            Version::V2 => ProxyProtocolVersion::V2,
        };
        let inner = cx.field("transport_socket", |cx| Self::parse(transport_socket, cx))?;
        Ok(Self {
            tls: inner.tls,
            proxy_protocol: Some(version),
        })
    }
}

impl TransportMatch {
    pub(super) fn parse(
        wire: pb::cluster::TransportSocketMatch,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let pb::cluster::TransportSocketMatch {
            name,
            r#match,
            transport_socket,
        } = wire;
        Ok(Self {
            name,
            criteria: parse_struct(r#match.unwrap_or_default()),
            transport: cx.field("transport_socket", |cx| {
                Transport::parse(transport_socket, cx)
            })?,
        })
    }
}
