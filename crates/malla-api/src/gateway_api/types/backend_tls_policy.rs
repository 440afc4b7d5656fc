//! BackendTLSPolicy.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::{limit, required, rule};

/// How backends are called by TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("targetRefs validation"))]
pub struct BackendTlsPolicySpec {
    /// The backends.
    #[schemars(transform = limit("maxItems", 16))]
    #[schemars(transform = limit("minItems", 1))]
    pub target_refs: Vec<PolicyTarget>,
    /// How their certificates are checked.
    pub validation: BackendValidation,
    /// Options of implementations.
    pub options: BTreeMap<String, String>,
}

/// Names an object of the policy's own namespace, or part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("group kind name"))]
pub struct PolicyTarget {
    /// API group; empty is Kubernetes' core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Name of a port; absent is all.
    pub section_name: Option<String>,
}

/// How a backend's certificate is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("hostname"))]
#[schemars(transform = rule("(has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0) != (has(self.wellKnownCACertificates) && self.wellKnownCACertificates != '')", "must specify either CACertificateRefs or WellKnownCACertificates"))]
pub struct BackendValidation {
    /// Trust anchors, in ConfigMaps.
    #[serde(rename = "caCertificateRefs")]
    #[schemars(transform = limit("maxItems", 8))]
    pub ca_certificate_refs: Vec<LocalRef>,
    /// System: those of the gateway's own machine.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    /// The name in the handshake, and in the certificate unless `subjectAltNames` says others.
    pub hostname: String,
    /// Names of which the certificate has to have one.
    #[schemars(transform = limit("maxItems", 5))]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Names an object of the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("group kind name"))]
pub struct LocalRef {
    /// API group; empty is Kubernetes' core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// A name in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("type"))]
pub struct SubjectAltName {
    /// Hostname or URI.
    #[serde(rename = "type")]
    pub kind: String,
    /// A DNS name.
    pub hostname: Option<String>,
    /// A URI, such as a SPIFFE id.
    pub uri: Option<String>,
}
