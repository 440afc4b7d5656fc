//! The kinds of Istio's API: their names, groups, versions, and how `kubectl` shows them.

use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;

use crate::istio::{
    AuthorizationPolicySpec, DestinationRuleSpec, EnvoyFilterSpec, GatewaySpec,
    PeerAuthenticationSpec, ProxyConfigSpec, RequestAuthenticationSpec, ServiceEntrySpec,
    SidecarSpec, TelemetrySpec, VirtualServiceSpec, WasmPluginSpec, WorkloadGroupSpec,
    workload_entry,
};
use crate::schema::structural;

/// One of Istio's kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Sidecar,
    EnvoyFilter,
    ProxyConfig,
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
    Telemetry,
    WasmPlugin,
}

/// What is said of a kind once, for its CRD and for clients.
#[derive(Debug)]
struct Facts {
    name: &'static str,
    plural: &'static str,
    short: Option<&'static str>,
    group: &'static str,
    /// The first one is stored.
    versions: &'static [&'static str],
    translated: bool,
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const EXTENSIONS: &str = "extensions.istio.io";
const V1_TO_ALPHA3: &[&str] = &["v1", "v1beta1", "v1alpha3"];

impl Kind {
    /// All kinds, in the order of their CRDs.
    pub const ALL: [Self; 14] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::WorkloadGroup,
        Self::Sidecar,
        Self::EnvoyFilter,
        Self::ProxyConfig,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
        Self::Telemetry,
        Self::WasmPlugin,
    ];

    fn facts(self) -> Facts {
        let networking = |name, plural, short, versions, translated| Facts {
            name,
            plural,
            short,
            group: NETWORKING,
            versions,
            translated,
        };
        let security = |name, plural, short| Facts {
            name,
            plural,
            short: Some(short),
            group: SECURITY,
            versions: &["v1", "v1beta1"],
            translated: true,
        };
        match self {
            Self::VirtualService => networking(
                "VirtualService",
                "virtualservices",
                Some("vs"),
                V1_TO_ALPHA3,
                true,
            ),
            Self::DestinationRule => networking(
                "DestinationRule",
                "destinationrules",
                Some("dr"),
                V1_TO_ALPHA3,
                true,
            ),
            Self::Gateway => networking("Gateway", "gateways", Some("gw"), V1_TO_ALPHA3, true),
            Self::ServiceEntry => networking(
                "ServiceEntry",
                "serviceentries",
                Some("se"),
                V1_TO_ALPHA3,
                true,
            ),
            Self::WorkloadEntry => networking(
                "WorkloadEntry",
                "workloadentries",
                Some("we"),
                V1_TO_ALPHA3,
                false,
            ),
            Self::WorkloadGroup => networking(
                "WorkloadGroup",
                "workloadgroups",
                Some("wg"),
                V1_TO_ALPHA3,
                false,
            ),
            Self::Sidecar => networking("Sidecar", "sidecars", None, V1_TO_ALPHA3, false),
            Self::EnvoyFilter => {
                networking("EnvoyFilter", "envoyfilters", None, &["v1alpha3"], false)
            }
            Self::ProxyConfig => {
                networking("ProxyConfig", "proxyconfigs", None, &["v1beta1"], false)
            }
            Self::PeerAuthentication => security("PeerAuthentication", "peerauthentications", "pa"),
            Self::AuthorizationPolicy => {
                security("AuthorizationPolicy", "authorizationpolicies", "ap")
            }
            Self::RequestAuthentication => {
                security("RequestAuthentication", "requestauthentications", "ra")
            }
            Self::Telemetry => Facts {
                name: "Telemetry",
                plural: "telemetries",
                short: Some("telemetry"),
                group: TELEMETRY,
                versions: &["v1alpha1", "v1"],
                translated: true,
            },
            Self::WasmPlugin => Facts {
                name: "WasmPlugin",
                plural: "wasmplugins",
                short: None,
                group: EXTENSIONS,
                versions: &["v1alpha1"],
                translated: false,
            },
        }
    }

    /// The kind of that name, in any of Istio's groups.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of an object's `apiVersion` and `kind`; `None` for other groups and for versions
    /// that are not served.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.split_once('/')?;
        Self::parse(kind).filter(|k| k.group() == group && k.versions().contains(&version))
    }

    /// `VirtualService`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// `virtualservices`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        self.facts().plural
    }

    /// `vs`; some kinds have none.
    #[must_use]
    pub fn short_name(self) -> Option<&'static str> {
        self.facts().short
    }

    /// `networking.istio.io`.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.facts().group
    }

    /// The served versions; the first one is stored.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        self.facts().versions
    }

    /// The version objects are stored and watched in.
    #[must_use]
    pub fn storage_version(self) -> &'static str {
        self.facts().versions.first().copied().unwrap_or_default()
    }

    /// Whether Malla acts on objects of the kind; of the others it says so.
    #[must_use]
    pub fn is_translated(self) -> bool {
        self.facts().translated
    }

    /// The structural schema of the kind's `spec`.
    #[must_use]
    pub fn spec_schema(self) -> &'static Value {
        static SCHEMAS: LazyLock<Vec<Value>> =
            LazyLock::new(|| Kind::ALL.into_iter().map(Kind::generate_schema).collect());
        static ANYTHING: Value = Value::Null;
        let at = Self::ALL.iter().position(|kind| *kind == self);
        at.and_then(|at| SCHEMAS.get(at)).unwrap_or(&ANYTHING)
    }

    fn generate_schema(self) -> Value {
        match self {
            Self::VirtualService => structural::<VirtualServiceSpec>(),
            Self::DestinationRule => structural::<DestinationRuleSpec>(),
            Self::Gateway => structural::<GatewaySpec>(),
            Self::ServiceEntry => structural::<ServiceEntrySpec>(),
            Self::WorkloadEntry => workload_entry::schema(),
            Self::WorkloadGroup => structural::<WorkloadGroupSpec>(),
            Self::Sidecar => structural::<SidecarSpec>(),
            Self::EnvoyFilter => structural::<EnvoyFilterSpec>(),
            Self::ProxyConfig => structural::<ProxyConfigSpec>(),
            Self::PeerAuthentication => structural::<PeerAuthenticationSpec>(),
            Self::AuthorizationPolicy => structural::<AuthorizationPolicySpec>(),
            Self::RequestAuthentication => structural::<RequestAuthenticationSpec>(),
            Self::Telemetry => structural::<TelemetrySpec>(),
            Self::WasmPlugin => structural::<WasmPluginSpec>(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_group_and_served_version() {
        assert_eq!(
            Kind::of("networking.istio.io/v1alpha3", "VirtualService"),
            Some(Kind::VirtualService)
        );
        assert_eq!(
            Kind::of("security.istio.io/v1beta1", "PeerAuthentication"),
            Some(Kind::PeerAuthentication)
        );
        for (api_version, kind) in [
            ("gateway.networking.k8s.io/v1", "Gateway"),
            ("networking.istio.io/v2", "VirtualService"),
            ("v1", "Service"),
        ] {
            assert_eq!(Kind::of(api_version, kind), None, "{api_version} {kind}");
        }
    }
}
