//! Gateway: ports at the edge of the mesh.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::{limit, nullable, required, rule};

/// Ports that gateway workloads open, and the hosts they serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Labels of the gateway pods; empty is all of them.
    pub selector: BTreeMap<String, String>,
    /// Ports to open.
    pub servers: Vec<Server>,
}

/// One port and its hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("port hosts"))]
pub struct Server {
    /// The port.
    pub port: Option<Port>,
    /// Address to listen on; absent is all.
    pub bind: Option<String>,
    /// Hosts served, `host` or `namespace/host`; the namespace (`*`, `.` or a name) says whose
    /// VirtualServices may bind.
    pub hosts: Vec<String>,
    /// Encryption.
    pub tls: Option<ServerTlsSettings>,
    /// Never implemented.
    pub default_endpoint: Option<String>,
    /// Name of the server, unique over all of them.
    pub name: Option<String>,
}

/// A port to open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("number protocol name"))]
pub struct Port {
    /// Port number, 1 to 65535.
    pub number: u32,
    /// HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP or MONGO.
    pub protocol: String,
    /// Name of the port.
    pub name: String,
    /// Old; nothing reads it.
    pub target_port: Option<u32>,
}

/// Encryption of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1", "only one of credentialNames or tlsCertificates can be set"))]
#[schemars(transform = rule("(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1", "only one of credentialName or credentialNames can be set"))]
pub struct ServerTlsSettings {
    /// Answer plain HTTP with a redirect to HTTPS.
    pub https_redirect: bool,
    /// What is done with TLS; absent is PASSTHROUGH.
    pub mode: Option<ServerTlsMode>,
    /// File of the server's certificate.
    pub server_certificate: Option<String>,
    /// File of the server's private key.
    pub private_key: Option<String>,
    /// File of the authorities that may sign clients.
    pub ca_certificates: Option<String>,
    /// File of revoked certificates.
    pub ca_crl: Option<String>,
    /// Secret of the gateway's namespace with certificate and key.
    pub credential_name: Option<String>,
    /// Up to two Secrets, for instance RSA and ECDSA.
    #[schemars(transform = limit("minItems", 1), transform = limit("maxItems", 2))]
    pub credential_names: Vec<String>,
    /// Secret with the authorities that may sign clients.
    pub ca_cert_credential_name: Option<String>,
    /// Up to two certificates by file.
    #[schemars(transform = limit("minItems", 1), transform = limit("maxItems", 2))]
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names a client's certificate must hold one of.
    pub subject_alt_names: Vec<String>,
    /// Hashes of public keys of clients.
    pub verify_certificate_spki: Vec<String>,
    /// Hashes of certificates of clients.
    pub verify_certificate_hash: Vec<String>,
    /// Lowest TLS version; absent is 1.2.
    pub min_protocol_version: Option<TlsProtocol>,
    /// Highest TLS version.
    pub max_protocol_version: Option<TlsProtocol>,
    /// Cipher suites, by OpenSSL's names.
    pub cipher_suites: Vec<String>,
    /// Do not verify clients.
    #[schemars(transform = nullable)]
    pub insecure_skip_verify: Option<bool>,
    /// Curves for the key exchange, such as `X25519`.
    pub ecdh_curves: Vec<String>,
}

/// A certificate by file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsCertificate {
    /// File of the server's certificate.
    pub server_certificate: Option<String>,
    /// File of the server's private key.
    pub private_key: Option<String>,
    /// File of the authorities that may sign clients.
    pub ca_certificates: Option<String>,
}

/// What a server does with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsProtocol {
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_0")]
    V1_0,
    #[serde(rename = "TLSV1_1")]
    V1_1,
    #[serde(rename = "TLSV1_2")]
    V1_2,
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
