//! Who and where we are: the environment and the files that the injector prepares, as Istio's
//! agent reads them.
//!
//! | variable | meaning |
//! |---|---|
//! | `POD_NAME`, `POD_NAMESPACE`, `INSTANCE_IP`, `SERVICE_ACCOUNT` | the pod (downward API); needed |
//! | `CA_ADDR` | the control plane, `HOST:PORT`; `PROXY_CONFIG`'s `discoveryAddress` outranks it |
//! | `TRUST_DOMAIN` | `cluster.local` when empty |
//! | `PROXY_CONFIG` | Istio's proxy configuration as JSON |
//! | `ISTIO_META_X`, `ISTIO_METAJSON_X` | become `X` of the node's metadata |
//! | `ISTIO_KUBE_APP_PROBERS` | the application's own probes, by the paths they were replaced with |
//! | `ISTIO_PROMETHEUS_ANNOTATIONS` | where the application has metrics of its own |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use malla_model::{SpiffeId, TrustDomain};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::status::Probe;

const DEFAULT_CONTROL_PLANE: &str = "istiod.istio-system.svc:15012";

/// What the proxy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Sidecar,
    Gateway,
}

impl Role {
    /// The first part of the node id.
    #[must_use]
    pub fn node_type(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "router",
        }
    }
}

/// Where the files are. The defaults are Istio's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The token that proves who we are, replaced by the kubelet from time to time.
    pub token: PathBuf,
    /// The root of the control plane's certificate.
    pub root: PathBuf,
    /// Labels and annotations of the pod.
    pub pod_info: PathBuf,
    /// Where sockets and the bootstrap are written.
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            token: "/var/run/secrets/tokens/istio-token".into(),
            root: "/var/run/secrets/istio/root-cert.pem".into(),
            pod_info: "/etc/istio/pod".into(),
            run: "/etc/istio/proxy".into(),
        }
    }
}

/// The ports of a pod's proxy. The defaults are Istio's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Envoy's admin port, on the loopback only.
    pub admin: u16,
    /// The agent's own.
    pub agent: u16,
    /// Readiness, for load balancers outside of the pod.
    pub ready: u16,
    /// Envoy's metrics.
    pub stats: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            admin: 15000,
            agent: 15020,
            ready: 15021,
            stats: 15090,
        }
    }
}

/// Where the application has metrics of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppMetrics {
    pub port: u16,
    pub path: String,
}

/// Everything the agent has to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub role: Role,
    pub pod: String,
    pub namespace: String,
    pub service_account: String,
    pub address: IpAddr,
    /// `NAMESPACE.svc.cluster.local`.
    pub domain: String,
    pub trust_domain: TrustDomain,
    /// `HOST:PORT` of the control plane.
    pub control_plane: String,
    /// Proves us to it and it to us; `false` is plain text, for port 15010.
    pub secure: bool,
    pub cluster_id: String,
    /// Of the node, from `ISTIO_META_*`.
    pub metadata: Map<String, Value>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub probes: BTreeMap<String, Probe>,
    pub app_metrics: Option<AppMetrics>,
    pub paths: Paths,
    pub ports: Ports,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "environment variable {0} is missing (the injector sets it; is this process started by hand?)"
    )]
    Missing(&'static str),
    #[error("environment variable {name} is {value:?} (expected {expected})")]
    Malformed {
        name: String,
        value: String,
        expected: &'static str,
    },
}

/// The part of Istio's `ProxyConfig` that concerns the agent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    discovery_address: Option<String>,
    proxy_metadata: BTreeMap<String, String>,
}

/// Istio's `ISTIO_PROMETHEUS_ANNOTATIONS`; its values are texts, as annotations are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PrometheusAnnotations {
    scrape: String,
    port: String,
    path: String,
}

impl Settings {
    /// Reads the settings; `domain` is the command line's `--domain`.
    ///
    /// # Errors
    /// When a needed variable is missing or one does not parse.
    pub fn read(
        role: Role,
        domain: Option<&str>,
        environment: &BTreeMap<String, String>,
        paths: Paths,
    ) -> Result<Self, SettingsError> {
        let get = |name: &str| {
            environment
                .get(name)
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        };
        let need = |name| get(name).ok_or(SettingsError::Missing(name));
        let proxy: ProxyConfig = json(environment, "PROXY_CONFIG")?.unwrap_or_default();
        let namespace = need("POD_NAMESPACE")?.to_owned();
        let address = need("INSTANCE_IP")?;
        let control_plane = proxy
            .discovery_address
            .as_deref()
            .or(get("CA_ADDR"))
            .unwrap_or(DEFAULT_CONTROL_PLANE);
        let mut metadata = metadata(&proxy.proxy_metadata)?;
        metadata.extend(self::metadata(environment)?);
        let cluster_id = metadata.get("CLUSTER_ID").and_then(Value::as_str);
        Ok(Self {
            role,
            pod: need("POD_NAME")?.to_owned(),
            service_account: get("SERVICE_ACCOUNT").unwrap_or("default").to_owned(),
            address: address.parse().map_err(|_| SettingsError::Malformed {
                name: "INSTANCE_IP".to_owned(),
                value: address.to_owned(),
                expected: "an IP address",
            })?,
            domain: domain.map_or_else(|| format!("{namespace}.svc.cluster.local"), str::to_owned),
            trust_domain: get("TRUST_DOMAIN")
                .map(TrustDomain::new)
                .unwrap_or_default(),
            control_plane: control_plane.to_owned(),
            secure: !control_plane.ends_with(":15010"),
            cluster_id: cluster_id.unwrap_or("Kubernetes").to_owned(),
            labels: pod_info(&paths, "labels"),
            annotations: pod_info(&paths, "annotations"),
            probes: json(environment, "ISTIO_KUBE_APP_PROBERS")?.unwrap_or_default(),
            app_metrics: app_metrics(environment)?,
            namespace,
            metadata,
            paths,
            ports: Ports::default(),
        })
    }

    /// The workload's identity.
    #[must_use]
    pub fn identity(&self) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.service_account)
    }
}

fn json<T: for<'a> Deserialize<'a>>(
    environment: &BTreeMap<String, String>,
    name: &str,
) -> Result<Option<T>, SettingsError> {
    let Some(text) = environment.get(name).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    let parsed = serde_json::from_str(text);
    parsed.map(Some).map_err(|_| SettingsError::Malformed {
        name: name.to_owned(),
        value: text.clone(),
        expected: "JSON as Istio's injector writes it",
    })
}

fn text_of(environment: &BTreeMap<String, String>, name: &str) -> String {
    environment.get(name).cloned().unwrap_or_default()
}

fn metadata(environment: &BTreeMap<String, String>) -> Result<Map<String, Value>, SettingsError> {
    let mut metadata = Map::new();
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            // A list, which istiod wants within a text, on one line.
            let ports = match key {
                "POD_PORTS" => serde_json::from_str(value).ok(),
                _ => None,
            };
            let value = ports.map_or_else(|| value.clone(), |ports: Value| ports.to_string());
            metadata.insert(key.to_owned(), value.into());
        } else if let Some(key) = name.strip_prefix("ISTIO_METAJSON_") {
            let fields: Option<Map<String, Value>> = json(environment, name)?;
            metadata.insert(key.to_owned(), Value::Object(fields.unwrap_or_default()));
        }
    }
    // What the pod changes of the mesh's defaults; control planes look at the node for it.
    let changes: Option<Map<String, Value>> = json(environment, "PROXY_CONFIG")?;
    if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
        metadata.insert("PROXY_CONFIG".to_owned(), Value::Object(changes));
    }
    Ok(metadata)
}

fn app_metrics(
    environment: &BTreeMap<String, String>,
) -> Result<Option<AppMetrics>, SettingsError> {
    const NAME: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
    let Some(annotations) = json::<PrometheusAnnotations>(environment, NAME)? else {
        return Ok(None);
    };
    // As Istio's agent: who names a port means it to be scraped.
    if annotations.scrape.eq_ignore_ascii_case("false") {
        return Ok(None);
    }
    let port = match &*annotations.port {
        "" => Ok(80),
        port => port.parse(),
    };
    let path = match &*annotations.path {
        "" => "/metrics".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let port = port.map_err(|_| SettingsError::Malformed {
        name: NAME.to_owned(),
        value: annotations.port,
        expected: "a port",
    })?;
    if port == Ports::default().agent {
        return Err(SettingsError::Malformed {
            name: NAME.to_owned(),
            value: text_of(environment, NAME),
            expected: "another port than the agent's own, which would ask itself for ever",
        });
    }
    Ok(Some(AppMetrics { port, path }))
}

/// A downward-API file: `key="value"` per line, the value in Go's quotes. Without it there are none.
fn pod_info(paths: &Paths, name: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(paths.pod_info.join(name)).unwrap_or_default();
    let pair = |line: &str| {
        let (key, quoted) = line.split_once('=')?;
        // Go's %q and JSON agree on everything that labels and annotations may hold.
        let value = serde_json::from_str(quoted).ok()?;
        Some((key.to_owned(), value))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pod = [
            ("POD_NAME", "cart-1"),
            ("POD_NAMESPACE", "base"),
            ("INSTANCE_IP", "10.0.0.7"),
            ("SERVICE_ACCOUNT", "cart"),
        ];
        let all = pod.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn read(more: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(Role::Sidecar, None, &environment(more), Paths::default())
    }

    #[test]
    fn a_pod_reads_what_the_injector_wrote() {
        let settings = read(&[
            ("CA_ADDR", "istiod.other.svc:15012"),
            ("ISTIO_META_CLUSTER_ID", "zone-a"),
            ("ISTIO_META_POD_PORTS", "[\n  {\"containerPort\": 7000}\n]"),
            ("ISTIO_METAJSON_EXTRA", r#"{"a":1}"#),
            ("ISTIO_PROMETHEUS_ANNOTATIONS", r#"{"scrape":"true","port":"9090","path":"m"}"#),
            (
                "ISTIO_KUBE_APP_PROBERS",
                r#"{"/app-health/cart/readyz":{"httpGet":{"path":"/up","port":7000},"timeoutSeconds":2}}"#,
            ),
        ])
        .unwrap();
        assert_eq!(
            settings.identity().to_string(),
            "spiffe://cluster.local/ns/base/sa/cart"
        );
        assert_eq!(settings.control_plane, "istiod.other.svc:15012");
        assert_eq!(settings.cluster_id, "zone-a");
        assert_eq!(settings.domain, "base.svc.cluster.local");
        assert_eq!(
            settings.metadata["POD_PORTS"],
            r#"[{"containerPort":7000}]"#
        );
        assert_eq!(settings.metadata["EXTRA"]["a"], 1);
        let metrics = settings.app_metrics.unwrap();
        assert_eq!((metrics.port, &*metrics.path), (9090, "/m"));
        assert!(settings.probes.contains_key("/app-health/cart/readyz"));
        assert!(settings.secure);
    }

    #[test]
    fn the_proxy_configuration_outranks_the_address() {
        let config = r#"{"discoveryAddress":"istiod.x.svc:15010","proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"true"}}"#;
        let settings = read(&[("PROXY_CONFIG", config), ("CA_ADDR", "y:1")]).unwrap();
        assert_eq!(settings.control_plane, "istiod.x.svc:15010");
        assert!(!settings.secure);
        assert_eq!(settings.metadata["DNS_CAPTURE"], "true");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |more: &[(&str, &str)], expected: &str| {
            let error = read(more).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[("INSTANCE_IP", "")], "INSTANCE_IP is missing");
        check(&[("INSTANCE_IP", "here")], "expected an IP address");
        check(&[("PROXY_CONFIG", "{")], "PROXY_CONFIG is \"{\"");
        check(
            &[(
                "ISTIO_PROMETHEUS_ANNOTATIONS",
                r#"{"scrape":"true","port":"x"}"#,
            )],
            "expected a port",
        );
    }

    #[test]
    fn labels_come_from_the_downward_api() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("labels"),
            "app=\"cart\"\nodd=\"a\\\"b\"\n",
        )
        .unwrap();
        let paths = Paths {
            pod_info: folder.path().to_owned(),
            ..Paths::default()
        };
        let labels = pod_info(&paths, "labels");
        assert_eq!(labels["app"], "cart");
        assert_eq!(labels["odd"], "a\"b");
    }
}
