//! Names of the built-in resources, for callers of [`crate::Client`].

use std::borrow::Cow;
use std::fmt;

/// A resource as clients name it: group, version and plural.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Empty for core.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    /// E.g. `deployments`.
    pub plural: Cow<'static, str>,
}

impl Resource {
    /// A built-in resource.
    pub const fn fixed(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
        }
    }

    /// Any resource.
    pub fn new(
        group: impl Into<String>,
        version: impl Into<String>,
        plural: impl Into<String>,
    ) -> Self {
        Self {
            group: Cow::Owned(group.into()),
            version: Cow::Owned(version.into()),
            plural: Cow::Owned(plural.into()),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            return write!(f, "{}/{}", self.version, self.plural);
        }
        write!(f, "{}/{}/{}", self.group, self.version, self.plural)
    }
}

pub const CONFIG_MAPS: Resource = Resource::fixed("", "v1", "configmaps");
pub const ENDPOINTS: Resource = Resource::fixed("", "v1", "endpoints");
pub const EVENTS: Resource = Resource::fixed("", "v1", "events");
pub const NAMESPACES: Resource = Resource::fixed("", "v1", "namespaces");
pub const NODES: Resource = Resource::fixed("", "v1", "nodes");
pub const PODS: Resource = Resource::fixed("", "v1", "pods");
pub const SECRETS: Resource = Resource::fixed("", "v1", "secrets");
pub const SERVICE_ACCOUNTS: Resource = Resource::fixed("", "v1", "serviceaccounts");
pub const SERVICES: Resource = Resource::fixed("", "v1", "services");
pub const DEPLOYMENTS: Resource = Resource::fixed("apps", "v1", "deployments");
pub const REPLICA_SETS: Resource = Resource::fixed("apps", "v1", "replicasets");
pub const ENDPOINT_SLICES: Resource = Resource::fixed("discovery.k8s.io", "v1", "endpointslices");
pub const LEASES: Resource = Resource::fixed("coordination.k8s.io", "v1", "leases");
pub const CUSTOM_RESOURCE_DEFINITIONS: Resource =
    Resource::fixed("apiextensions.k8s.io", "v1", "customresourcedefinitions");
pub const MUTATING_WEBHOOKS: Resource = Resource::fixed(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
);
pub const VALIDATING_WEBHOOKS: Resource = Resource::fixed(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
);
