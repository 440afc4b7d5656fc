//! Puts manifests into the embedded API server.

use std::time::Duration;

use anyhow::{Context as _, Result};
use malla_apiserver::{ApiError, Client, Patch, Resource};
use serde_json::Value;
use tokio::time::Instant;

const WEBHOOKS_COME_UP: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(50);

/// Reads every document of a YAML text.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("read a manifest")?;
    Ok(documents.into_iter().filter(Value::is_object).collect())
}

/// Server-side apply of each object in turn. What others own in them is overruled: these objects
/// belong to the installation.
pub(crate) async fn apply(client: &Client, objects: Vec<Value>) -> Result<()> {
    for object in objects {
        let (resource, namespace, name) = address(&object)?;
        let patch = Patch::Apply {
            object,
            force: true,
        };
        apply_one(client, &resource, namespace.as_deref(), &name, &patch)
            .await
            .with_context(|| format!("apply {} {name}", resource.plural))?;
    }
    Ok(())
}

/// Tries again while webhooks cannot be asked: their pod may be ready before its Service leads to it.
async fn apply_one(
    client: &Client,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
    patch: &Patch,
) -> Result<(), ApiError> {
    let deadline = Instant::now() + WEBHOOKS_COME_UP;
    loop {
        match client.patch(resource, namespace, name, patch.clone()).await {
            Err(error)
                if error.message().contains("failed calling webhook")
                    && Instant::now() < deadline =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            done => return done.map(drop),
        }
    }
}

/// As `kubectl apply` would leave them, so that a user's own `kubectl apply` of the same lessons
/// finds what it expects.
pub(crate) fn as_kubectl(mut object: Value) -> Value {
    let last = object.to_string() + "\n";
    object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
        Value::String(last);
    object
}

fn address(object: &Value) -> Result<(Resource, Option<String>, String)> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let api_version = text("/apiVersion").context("an object without apiVersion")?;
    let kind = text("/kind").context("an object without kind")?;
    let name = text("/metadata/name").with_context(|| format!("a {kind} without a name"))?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    Ok((
        Resource::new(group, version, plural(&kind)),
        text("/metadata/namespace"),
        name,
    ))
}

/// The resource of a kind: Istio's are looked up, the rest are regular.
fn plural(kind: &str) -> String {
    if let Some(kind) = malla_api::Kind::parse(kind) {
        return kind.plural().to_owned();
    }
    let lower = kind.to_ascii_lowercase();
    if lower.ends_with('s') {
        format!("{lower}es")
    } else {
        format!("{lower}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installation_and_the_lessons_can_be_addressed() {
        for lesson in super::super::LESSONS {
            for object in documents(lesson).unwrap() {
                address(&object).unwrap();
            }
        }
        assert_eq!(plural("Gateway"), "gateways");
        assert_eq!(plural("DestinationRule"), "destinationrules");
        assert_eq!(plural("Deployment"), "deployments");
        assert_eq!(
            plural("MutatingWebhookConfiguration"),
            "mutatingwebhookconfigurations"
        );
    }
}
