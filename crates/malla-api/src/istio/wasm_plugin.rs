//! WasmPlugin: WebAssembly filters.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::common::{
    ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE, PolicyTargetReference, WorkloadSelector,
};
use crate::schema::{free_form, limit, list_map, nullable, pattern, required, rule};

/// A WebAssembly filter.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("url"), transform = rule(ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE))]
pub struct WasmPluginSpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Only for this object.
    pub target_ref: Option<PolicyTargetReference>,
    /// Only for these objects.
    #[schemars(transform = limit("maxItems", 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Where the module is: `oci://`, `http://`, `https://` or `file://`.
    #[schemars(transform = limit("minLength", 1))]
    #[schemars(transform = rule("isURL(self) ? (url(self).getScheme() in ['', 'http', 'https', 'oci', 'file']) : (isURL('http://' + self) && url('http://' + self).getScheme() in ['', 'http', 'https', 'oci', 'file'])", "url must have schema one of [http, https, file, oci]"))]
    pub url: String,
    /// Checksum of the module.
    #[schemars(transform = pattern("(^$|^[a-f0-9]{64}$)"))]
    pub sha256: Option<String>,
    /// When the image is fetched.
    pub image_pull_policy: Option<PullPolicy>,
    /// Secret for the image registry.
    #[schemars(transform = limit("minLength", 1), transform = limit("maxLength", 253))]
    pub image_pull_secret: Option<String>,
    /// Key that must have signed the module.
    pub verification_key: Option<String>,
    /// What the module is given.
    #[schemars(transform = free_form)]
    pub plugin_config: Option<Value>,
    /// Name inside of the module.
    #[schemars(transform = limit("minLength", 1), transform = limit("maxLength", 256))]
    pub plugin_name: Option<String>,
    /// Where it stands among the filters.
    pub phase: Option<PluginPhase>,
    /// Order within the phase, highest first.
    #[schemars(transform = nullable)]
    pub priority: Option<i32>,
    /// What happens when it fails; absent is FAIL_CLOSE.
    pub fail_strategy: Option<FailStrategy>,
    /// Its environment.
    pub vm_config: Option<VmConfig>,
    /// Which traffic; absent is all.
    #[serde(rename = "match")]
    pub traffic: Vec<TrafficSelector>,
    /// HTTP (the default) or NETWORK.
    #[serde(rename = "type")]
    pub plugin_type: Option<PluginType>,
}

/// When the image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PullPolicy {
    #[serde(rename = "UNSPECIFIED_POLICY")]
    Unspecified,
    IfNotPresent,
    Always,
}

/// Where a filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PluginPhase {
    UnspecifiedPhase,
    Authn,
    Authz,
    Stats,
}

/// What happens when a filter fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailStrategy {
    FailClose,
    FailOpen,
    FailReload,
}

/// What a module filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PluginType {
    UnspecifiedPluginType,
    Http,
    Network,
}

/// Environment of a module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct VmConfig {
    /// Variables.
    #[schemars(transform = limit("maxItems", 256), transform = list_map("name"))]
    pub env: Vec<EnvVar>,
}

/// A variable of a module's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
#[schemars(transform = rule("(has(self.valueFrom) ? self.valueFrom : '') != 'HOST' || !has(self.value)", "value may only be set when valueFrom is INLINE"))]
pub struct EnvVar {
    /// Name.
    #[schemars(transform = limit("minLength", 1), transform = limit("maxLength", 256))]
    pub name: String,
    /// INLINE (the default) or HOST, the proxy's own variable.
    pub value_from: Option<EnvValueSource>,
    /// Value, with INLINE.
    #[schemars(transform = limit("maxLength", 2048))]
    pub value: Option<String>,
}

/// Where a variable comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EnvValueSource {
    Inline,
    Host,
}

/// Which traffic a filter sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficSelector {
    /// Which side of a call.
    pub mode: Option<TrafficMode>,
    /// Which ports; absent is all.
    #[schemars(transform = list_map("number"))]
    pub ports: Vec<PortNumber>,
}

/// Which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrafficMode {
    Undefined,
    Client,
    Server,
    ClientAndServer,
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("number"))]
pub struct PortNumber {
    /// Port number, 1 to 65535.
    #[schemars(transform = limit("minimum", 1), transform = limit("maximum", 65535))]
    pub number: u32,
}
