//! The users' webhooks, parsed: one [`Hook`] per entry of a stored configuration.
//!
//! Configurations were validated when they were stored; an entry that does not parse nevertheless (a bad caBundle, say) is
//! kept, and answers every request it matches with its problem, under its failure policy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use malla_apimachinery::condition::Condition;
use malla_apimachinery::error::FieldError;
use malla_apimachinery::selector::LabelSelector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use super::matching::Rule;
use crate::core::Core;
use crate::outside::DialTarget;

/// Group resources of the two configurations.
pub(crate) const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
pub(crate) const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
/// Variables of match conditions. Kubernetes' `authorizer` is not offered: expressions that use it do not compile.
const VARIABLES: [&str; 3] = ["object", "oldObject", "request"];
/// `timeoutSeconds` of v1.
const DEFAULT_TIMEOUT: u64 = 10;

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
    pub(super) namespaces: Result<LabelSelector, String>,
    pub(super) objects: Result<LabelSelector, String>,
    pub(super) conditions: Vec<(String, Result<Condition, String>)>,
    /// `matchPolicy: Equivalent`.
    pub(super) equivalent: bool,
    /// `failurePolicy: Ignore`.
    pub(super) ignore_failure: bool,
    /// `sideEffects` is `None` or `NoneOnDryRun`.
    pub(super) dry_run: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub(super) reinvoke: bool,
    pub(super) timeout: Duration,
    pub(super) endpoint: Result<Endpoint, String>,
}

/// Where and how a webhook is called.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) target: DialTarget,
    /// For certificate verification and the `Host` header.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) tls: Arc<ClientConfig>,
}

/// Parsed configurations, by uid and generation.
#[derive(Debug, Default)]
pub(crate) struct Hooks(Mutex<HashMap<String, Parsed>>);

#[derive(Debug)]
struct Parsed {
    version: u64,
    hooks: Vec<Arc<Hook>>,
}

impl Hooks {
    /// The webhooks of all stored configurations of `resource`, in the order they are called.
    pub(super) fn of(&self, core: &Core, resource: &str) -> Vec<Arc<Hook>> {
        let world = core.store.read();
        let stored = world.range(resource, None, None);
        let stored: Vec<_> = stored
            .map(|(key, one)| (key.name.clone(), one.clone()))
            .collect();
        drop(world);
        if stored.is_empty() {
            return Vec::new();
        }
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        let prefix = format!("{resource}/");
        let known = |key: &str| {
            let name = key.strip_prefix(&prefix);
            name.is_none_or(|name| stored.iter().any(|(stored, _)| stored == name))
        };
        cache.retain(|key, _| known(key));
        for (name, stored) in &stored {
            let parsed = cache
                .entry(format!("{prefix}{name}"))
                .and_modify(|parsed| {
                    if parsed.version != stored.version {
                        *parsed = Parsed::new(stored.version, &stored.object);
                    }
                })
                .or_insert_with(|| Parsed::new(stored.version, &stored.object));
            all.extend(parsed.hooks.iter().cloned());
        }
        all
    }
}

impl Parsed {
    fn new(version: u64, configuration: &Value) -> Self {
        let hooks = configuration["webhooks"].as_array().into_iter().flatten();
        Self {
            version,
            hooks: hooks.map(|hook| Arc::new(Hook::parse(hook))).collect(),
        }
    }
}

impl Hook {
    fn parse(hook: &Value) -> Self {
        let text = |field: &str| hook[field].as_str().unwrap_or_default();
        let selector = |field: &str| match &hook[field] {
            Value::Null => Ok(LabelSelector::default()),
            selector => LabelSelector::from_object(selector).map_err(|e| e.to_string()),
        };
        let rules = hook["rules"].as_array().into_iter().flatten();
        let conditions = hook["matchConditions"].as_array().into_iter().flatten();
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT);
        Self {
            name: text("name").to_owned(),
            rules: rules.map(Rule::parse).collect(),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            conditions: conditions.map(condition).collect(),
            equivalent: text("matchPolicy") != "Exact",
            ignore_failure: text("failurePolicy") == "Ignore",
            dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            reinvoke: text("reinvocationPolicy") == "IfNeeded",
            timeout: Duration::from_secs(seconds.clamp(1, 30)),
            endpoint: endpoint(&hook["clientConfig"], seconds),
        }
    }
}

/// What is wrong with a configuration, beyond its schema.
pub(crate) fn check(configuration: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let hooks = configuration["webhooks"].as_array().into_iter().flatten();
    for (index, hook) in hooks.enumerate() {
        let conditions = hook["matchConditions"].as_array().into_iter().flatten();
        for (number, one) in conditions.enumerate() {
            if let (_, Err(why)) = condition(one) {
                let path = format!("webhooks[{index}].matchConditions[{number}].expression");
                let detail = format!("compilation failed: {why}");
                errors.push(FieldError::invalid(
                    &path,
                    one["expression"].clone(),
                    detail,
                ));
            }
        }
        let bundle = &hook["clientConfig"]["caBundle"];
        if !is_placeholder(bundle)
            && let Err(why) = tls(bundle)
        {
            let path = format!("webhooks[{index}].clientConfig.caBundle");
            errors.push(FieldError::invalid(&path, bundle.clone(), why));
        }
    }
    errors
}

/// A bundle that is filled in later by whoever has the certificate: absent, empty, or a line end (`Cg==`), as the
/// manifests of kubebuilder have it.
fn is_placeholder(bundle: &Value) -> bool {
    let Some(bundle) = bundle.as_str() else {
        return true;
    };
    STANDARD
        .decode(bundle)
        .is_ok_and(|bytes| bytes.trim_ascii().is_empty())
}

fn condition(condition: &Value) -> (String, Result<Condition, String>) {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let compiled = Condition::compile(text("expression"), &VARIABLES);
    (text("name").to_owned(), compiled)
}

fn endpoint(config: &Value, seconds: u64) -> Result<Endpoint, String> {
    let tls = tls(&config["caBundle"])?;
    let service = &config["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
    if service.is_object() {
        let (namespace, name) = (text("namespace"), text("name"));
        let port = service["port"].as_u64().unwrap_or(443);
        let port =
            u16::try_from(port).map_err(|_| format!("service port {port} is out of range"))?;
        return Ok(Endpoint {
            host: format!("{name}.{namespace}.svc"),
            path: with_timeout(&text("path"), seconds),
            target: DialTarget::Service {
                namespace,
                name,
                port,
            },
            tls,
        });
    }
    let url = config["url"].as_str().unwrap_or_default();
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("url {url:?}: {error}"))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
    let host = host.ok_or_else(|| format!("url {url:?}: an https URL with a host was expected"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Endpoint {
        target: DialTarget::Host {
            host: host.clone(),
            port: uri.port_u16().unwrap_or(443),
        },
        host,
        path: with_timeout(path, seconds),
        tls,
    })
}

fn with_timeout(path: &str, seconds: u64) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{slash}{path}{joint}timeout={seconds}s")
}

/// TLS that trusts exactly the bundle.
fn tls(bundle: &Value) -> Result<Arc<ClientConfig>, String> {
    let bundle = bundle.as_str().filter(|bundle| !bundle.is_empty());
    let bundle = bundle.ok_or(
        "clientConfig.caBundle is empty: put the PEM certificate that signed the webhook's there",
    )?;
    let pem = STANDARD
        .decode(bundle)
        .map_err(|error| format!("clientConfig.caBundle is not base64: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| format!("clientConfig.caBundle is not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("clientConfig.caBundle: {error}"))?;
    }
    if roots.is_empty() {
        return Err("clientConfig.caBundle holds no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}
