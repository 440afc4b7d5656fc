//! AuthorizationPolicy: who may call what.

use schemars::{JsonSchema, Schema};
use serde::Deserialize;

use super::common::{
    ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE, PolicyTargetReference, WorkloadSelector,
};
use crate::schema::{each, limit, required, rule};

/// Who may call what. Denials are checked first; once any ALLOW policy applies to a workload, what
/// none of them allows is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule(ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE))]
pub struct AuthorizationPolicySpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Only for this object.
    pub target_ref: Option<PolicyTargetReference>,
    /// Only for these objects.
    #[schemars(transform = limit("maxItems", 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Requests, any of these. None at all matches nothing, so ALLOW without rules refuses everything.
    #[schemars(transform = limit("maxItems", 512))]
    pub rules: Vec<Rule>,
    /// Absent is ALLOW.
    pub action: Option<Action>,
    /// Who decides, with action CUSTOM.
    pub provider: Option<ExtensionProvider>,
}

/// What happens to matching requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// Who decides, with action CUSTOM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtensionProvider {
    /// Name of an extension provider of the mesh configuration.
    pub name: Option<String>,
}

/// A set of requests: from, to and when must all hold; what is absent holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// Callers, any of these.
    #[schemars(transform = limit("maxItems", 512))]
    pub from: Vec<From>,
    /// Operations, any of these.
    pub to: Vec<To>,
    /// Further conditions, all of these.
    pub when: Vec<Condition>,
}

/// One alternative of the callers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct From {
    /// The caller.
    pub source: Option<Source>,
}

/// One alternative of the operations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct To {
    /// The operation.
    pub operation: Option<Operation>,
}

/// A caller; all fields that are set must hold. Needs mutual TLS for all but addresses and JWT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) && !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true", "Cannot set serviceAccounts with namespaces or principals"))]
pub struct Source {
    /// Identities, `cluster.local/ns/NAMESPACE/sa/ACCOUNT`; `*`, `prefix*` and `*suffix` are allowed.
    pub principals: Vec<String>,
    /// None of these identities.
    pub not_principals: Vec<String>,
    /// Identities of the request's JWT, `issuer/subject`.
    pub request_principals: Vec<String>,
    /// None of these JWT identities.
    pub not_request_principals: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// None of these namespaces.
    pub not_namespaces: Vec<String>,
    /// Service accounts, `namespace/name` or `name` of this namespace.
    #[schemars(transform = account_list)]
    pub service_accounts: Vec<String>,
    /// None of these service accounts.
    #[schemars(transform = account_list)]
    pub not_service_accounts: Vec<String>,
    /// Addresses of the direct peer, IP or CIDR.
    pub ip_blocks: Vec<String>,
    /// None of these addresses of the direct peer.
    pub not_ip_blocks: Vec<String>,
    /// Addresses of the original client, by X-Forwarded-For or PROXY protocol.
    pub remote_ip_blocks: Vec<String>,
    /// None of these addresses of the original client.
    pub not_remote_ip_blocks: Vec<String>,
    /// Trust domains.
    pub trust_domains: Vec<String>,
    /// None of these trust domains.
    pub not_trust_domains: Vec<String>,
}

fn account_list(schema: &mut Schema) {
    limit("maxItems", 16)(schema);
    each("maxLength", 320)(schema);
}

/// An operation; all fields that are set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    /// Hosts, without regard to case.
    pub hosts: Vec<String>,
    /// None of these hosts.
    pub not_hosts: Vec<String>,
    /// Ports of the workload.
    pub ports: Vec<String>,
    /// None of these ports.
    pub not_ports: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// None of these methods.
    pub not_methods: Vec<String>,
    /// Paths; `{*}` is one segment and `{**}` any number.
    pub paths: Vec<String>,
    /// None of these paths.
    pub not_paths: Vec<String>,
}

/// A further condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("key"))]
pub struct Condition {
    /// The attribute, such as `request.headers[version]` or `source.namespace`.
    pub key: String,
    /// One of these values.
    pub values: Vec<String>,
    /// None of these values.
    pub not_values: Vec<String>,
}
