//! Istio's `istio.networking.nds.v1`: the names a sidecar's DNS proxy answers for.

use std::collections::HashMap;

/// Host name to addresses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameTable {
    #[prost(map = "string, message", tag = "1")]
    pub table: HashMap<String, NameInfo>,
}

impl prost::Name for NameTable {
    const NAME: &'static str = "NameTable";
    const PACKAGE: &'static str = "istio.networking.nds.v1";

    fn type_url() -> String {
        crate::type_url::NAME_TABLE.into()
    }
}

/// What is known of one host.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameInfo {
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// `Kubernetes` or `External`.
    #[prost(string, tag = "2")]
    pub registry: String,
    /// Name of the Kubernetes Service; only with registry `Kubernetes`.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// Namespace of the Kubernetes Service; only with registry `Kubernetes`.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// Old; Istio no longer writes it.
    #[prost(string, repeated, tag = "5")]
    pub alt_hosts: Vec<String>,
}
