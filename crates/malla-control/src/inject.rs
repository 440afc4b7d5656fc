//! Sidecar injection: which pods get a proxy, and what is added to them.
//!
//! Pure: a pod and its namespace's labels go in, a changed pod and warnings come out; the webhook
//! turns that into a JSON patch. The order of decisions is Istio's; the added containers carry
//! Istio's names, ports, volumes and paths, so that everything users know about them stays true.

pub mod decide;
pub mod options;
mod scrape;
mod shape;
pub mod template;

use std::collections::BTreeMap;

use serde_json::Value;

pub use decide::{Decision, Skip};
pub use options::{BadAnnotation, PodOptions};
pub use shape::Misshapen;

/// What is the same for every pod of this control plane.
#[derive(Debug, Clone)]
pub struct InjectSettings {
    /// Image of the proxy and of the init step.
    pub image: String,
    /// `host:port` the proxy gets its certificate and configuration from.
    pub discovery_address: String,
    pub domain: String,
    pub trust_domain: String,
    pub cluster_id: String,
    pub mesh_id: String,
    /// Revisions this control plane answers to; any other one is injected with a warning.
    pub revisions: Vec<String>,
    /// Arguments that come after `proxy sidecar`, such as `--envoy-path P`.
    pub extra_proxy_args: Vec<String>,
    /// `holdApplicationUntilProxyStarts` of the mesh.
    pub hold_application: bool,
    pub root_namespace: String,
}

/// A pod that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Injection {
    /// Left as it is, for this reason.
    Skipped(Skip),
    /// With a proxy, and what the user should hear about it.
    Injected {
        pod: Box<Value>,
        warnings: Vec<String>,
    },
}

/// Why a pod is given no proxy although it should have one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInjectable {
    #[error(transparent)]
    Annotation(#[from] BadAnnotation),
    #[error(transparent)]
    Shape(#[from] Misshapen),
}

/// Decides about one pod and adds its proxy.
///
/// # Errors
/// When an annotation that steers the injection cannot be understood, or the pod does not have the
/// form of one.
pub fn inject(
    pod: &Value,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    settings: &InjectSettings,
) -> Result<Injection, NotInjectable> {
    let revision = namespace_labels.get(decide::REVISION).map(String::as_str);
    let mut warnings = match decide::decide(pod, namespace, revision, &settings.revisions) {
        Decision::Skip(why) => return Ok(Injection::Skipped(why)),
        Decision::Inject { warnings } => warnings,
    };
    shape::check(pod)?;
    let options = PodOptions::read(pod, settings, &mut warnings)?;
    let pod = Box::new(template::add_proxy(pod, namespace, &options, settings));
    Ok(Injection::Injected { pod, warnings })
}
