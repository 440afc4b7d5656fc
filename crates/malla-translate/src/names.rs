//! Names that are contracts: Istio's tools and users' dashboards and filters match on them.

use malla_model::Host;

pub const PASSTHROUGH: &str = "PassthroughCluster";
pub const BLACK_HOLE: &str = "BlackHoleCluster";
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
pub const VIRTUAL_INBOUND: &str = "virtualInbound";
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;
/// The static cluster of a proxy's bootstrap that leads to the agent's secrets.
pub const SDS_CLUSTER: &str = "sds-grpc";
/// The workload's certificate, by SDS.
pub const WORKLOAD_SECRET: &str = "default";
/// The trust anchors, by SDS.
pub const ROOT_SECRET: &str = "ROOTCA";
/// Before the namespace and name of a Secret that a proxy may have as its own account may.
pub const OWN_SECRET: &str = "kubernetes://";
/// Before those of a Secret that a gateway's server may have because its owner lets it.
pub const GRANTED_SECRET: &str = "kubernetes-gateway://";
/// Behind the name of a Secret whose trust anchors are meant.
pub const ANCHORS_SUFFIX: &str = "-cacert";
/// Traffic the sidecar hands to its own workload comes from here, so that capture lets it through.
pub const LOOPBACK_SOURCE_V4: &str = "127.0.0.6";
pub const LOOPBACK_SOURCE_V6: &str = "::6";
/// Added to stat names, so that `|` and `.` in them cannot be mistaken.
const STAT_NAME_END: &str = ";";

/// `outbound|port|subset|host`.
#[must_use]
pub fn outbound_cluster(port: u16, subset: &str, host: &Host) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `inbound|port||`, by the port the workload listens on.
#[must_use]
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

/// `outbound_.port_.subset_.host`: an outbound cluster's name as SNI has to spell it.
#[must_use]
pub fn outbound_sni(port: u16, subset: &str, host: &Host) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

#[must_use]
pub(crate) fn stat_name(cluster: &str) -> String {
    format!("{cluster}{STAT_NAME_END}")
}

/// The parts of `outbound|port|subset|host`, or of the same as SNI spells it.
#[must_use]
pub fn parse_outbound(cluster: &str) -> Option<(u16, &str, Host)> {
    let separator = if cluster.contains('|') { "|" } else { "_." };
    let mut parts = cluster.splitn(4, separator);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()?) {
        ("outbound", port, subset, host) => Some((port.parse().ok()?, subset, Host::new(host))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use malla_model::Host;

    use super::{outbound_cluster, outbound_sni, parse_outbound};

    #[test]
    fn a_cluster_name_can_be_taken_apart() {
        let host = Host::new("order.base.svc.cluster.local");
        let name = outbound_cluster(7000, "v1", &host);
        assert_eq!(name, "outbound|7000|v1|order.base.svc.cluster.local");
        assert_eq!(parse_outbound(&name), Some((7000, "v1", host.clone())));
        let name = outbound_sni(7000, "v1", &host);
        assert_eq!(parse_outbound(&name), Some((7000, "v1", host)));
        assert_eq!(parse_outbound("inbound|7000||"), None);
        assert_eq!(parse_outbound("outbound|x||h"), None);
    }
}
