//! `istio.alpn`: HTTP in the mesh is said to be HTTP.

use malla_xds_proto::istio_filters::{AlpnConfig, AlpnOverride, AlpnProtocol};

use crate::checked::{Cx, Invalid};

/// What this proxy says of HTTP within TLS is what Istio asks for; anything else it would not say.
pub(super) fn check(wire: AlpnConfig, cx: &mut Cx) -> Result<(), Invalid> {
    let AlpnConfig { alpn_override } = wire;
    for (
        index,
        AlpnOverride {
            upstream_protocol,
            alpn_override,
        },
    ) in alpn_override.into_iter().enumerate()
    {
        let field = format!("alpn_override[{index}]");
        let said = match cx.enumeration(&field, upstream_protocol)? {
            AlpnProtocol::Http10 => ["istio-http/1.0", "istio", "http/1.0"],
            AlpnProtocol::Http11 => ["istio-http/1.1", "istio", "http/1.1"],
            AlpnProtocol::Http2 => ["istio-h2", "istio", "h2"],
        };
        if alpn_override != said {
            cx.warn(
                &field,
                format!("has no effect in this proxy, which offers {said:?}"),
            );
        }
    }
    Ok(())
}
