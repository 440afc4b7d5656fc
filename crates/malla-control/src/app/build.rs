//! What this program says it is, in the words of Istio's tools.

use std::fmt;

use serde_json::json;

/// Istio's `BuildInfo`.
#[derive(Debug, Clone, Copy)]
pub(super) struct BuildInfo {
    version: &'static str,
    revision: &'static str,
}

impl BuildInfo {
    pub(super) fn own() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            revision: "malla",
        }
    }

    /// `ControlPlane.identifier`: who answers, for `istioctl proxy-status`' column ISTIOD and its
    /// `version`. They know one component, and what it is of (istiod: `IstioControlPlaneInstance`).
    pub(super) fn identifier(self, pod: &str) -> String {
        json!({
            "Component": "istiod", "ID": pod,
            "Info": {"version": self.version, "revision": self.revision, "golang_version": "", "status": "Clean", "tag": self.version},
        })
        .to_string()
    }
}

/// `VERSION-REVISION-STATUS`, what istiod's `/version` says.
impl fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-Clean", self.version, self.revision)
    }
}
