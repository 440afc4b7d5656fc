//! Publishes the mesh's root certificates: a ConfigMap in every namespace for proxies, and the
//! `caBundle` of our webhooks for the API server.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::manifest::{MUTATING_WEBHOOK, VALIDATING_WEBHOOK};

/// Name of the ConfigMap, and the key in it.
pub const CONFIG_MAP: &str = "istio-ca-root-cert";
pub const KEY: &str = "root-cert.pem";

/// The field manager of everything the control plane applies.
pub const MANAGER: &str = "malla-control";

/// Puts the roots into one namespace.
///
/// # Errors
/// When the API server refuses or cannot be reached.
pub async fn publish(client: &kube::Client, namespace: &str, roots_pem: &str) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let wanted = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {KEY: roots_pem},
    });
    maps.patch(
        CONFIG_MAP,
        &PatchParams::apply(MANAGER).force(),
        &Patch::Apply(&wanted),
    )
    .await?;
    Ok(())
}

/// Lets the API server trust our webhooks, and has the validating one refuse when it cannot be asked.
///
/// # Errors
/// When the API server refuses or cannot be reached.
pub async fn trust_webhooks(client: &kube::Client, roots_pem: &str) -> kube::Result<()> {
    let bundle = k8s_openapi::ByteString(roots_pem.as_bytes().to_vec());
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    if let Some(mut config) = mutating.get_opt(MUTATING_WEBHOOK).await? {
        let before = config.clone();
        for webhook in config.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle = Some(bundle.clone());
        }
        if config != before {
            mutating
                .replace(MUTATING_WEBHOOK, &kube::api::PostParams::default(), &config)
                .await?;
        }
    }
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    if let Some(mut config) = validating.get_opt(VALIDATING_WEBHOOK).await? {
        let before = config.clone();
        for webhook in config.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle = Some(bundle.clone());
            if webhook.name == "rev.validation.istio.io" {
                webhook.failure_policy = Some("Fail".into());
            }
        }
        if config != before {
            validating
                .replace(
                    VALIDATING_WEBHOOK,
                    &kube::api::PostParams::default(),
                    &config,
                )
                .await?;
        }
    }
    Ok(())
}
