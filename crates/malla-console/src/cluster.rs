//! Writes to the cluster, as any Kubernetes client would: dry runs, create, replace, delete.

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use malla_api::Kind;
use serde_json::{Value, json};

use crate::error::{ApiError, Code};
use crate::mirror::{Object, Watched, read};
use crate::yaml::LAST_APPLIED;

/// The console's name in `managedFields`.
pub(crate) const MANAGER: &str = "malla-console";

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) watched: Watched,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Address {
    /// Of an object as its author wrote it; without a namespace it is of `default`.
    ///
    /// # Errors
    /// When it is of no kind the console writes, or has no name.
    pub(crate) fn of(object: &Value) -> Result<Self, ApiError> {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let watched = match (api_version, kind, Kind::of(api_version, kind)) {
            (_, _, Some(kind)) => Watched::Istio(kind),
            ("v1", "Namespace", _) => Watched::Namespace,
            ("v1", "Service", _) => Watched::Service,
            ("apps/v1", "Deployment", _) => Watched::Deployment,
            ("", _, _) => {
                return Err(ApiError::invalid("an object needs an apiVersion").at("apiVersion"));
            }
            (_, "", _) => return Err(ApiError::invalid("an object needs a kind").at("kind")),
            (_, _, None) => {
                let fix = match Kind::parse(kind) {
                    Some(kind) => format!(
                        "write apiVersion: {}/{}",
                        kind.group(),
                        kind.storage_version()
                    ),
                    None => "the console writes Istio's kinds; use kubectl for others".to_owned(),
                };
                return Err(
                    ApiError::invalid(format!("there is no {kind} in {api_version}"))
                        .at("kind")
                        .fix(fix),
                );
            }
        };
        let name = text("/metadata/name");
        if name.is_empty() {
            return Err(ApiError::invalid("an object needs a name").at("metadata.name"));
        }
        let namespace = match (watched, text("/metadata/namespace")) {
            (Watched::Namespace, _) => "",
            (_, "") => "default",
            (_, namespace) => namespace,
        };
        Ok(Self {
            watched,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    pub(crate) fn kind(&self) -> String {
        self.watched.resource().kind
    }
}

/// A client with the console's own rights.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: kube::Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    fn api(&self, address: &Address) -> (Api<DynamicObject>, ApiResource) {
        let resource = address.watched.resource();
        let client = self.client.clone();
        let api = match address.namespace.as_str() {
            "" => Api::all_with(client, &resource),
            namespace => Api::namespaced_with(client, namespace, &resource),
        };
        (api, resource)
    }

    /// The object as it is now.
    ///
    /// # Errors
    /// When the API server does not answer or forbids it.
    pub(crate) async fn get(&self, address: &Address) -> Result<Option<Object>, ApiError> {
        let (api, resource) = self.api(address);
        Ok(api
            .get_opt(&address.name)
            .await?
            .map(|object| read(object, &resource)))
    }

    /// Makes the object be what `wanted` says: creates it, or replaces all an author may write.
    ///
    /// # Errors
    /// What the API server or its webhooks say against it.
    pub(crate) async fn put(
        &self,
        address: &Address,
        wanted: &Value,
        dry_run: bool,
    ) -> Result<Object, ApiError> {
        let (api, resource) = self.api(address);
        let parameters = PostParams {
            dry_run,
            field_manager: Some(MANAGER.to_owned()),
        };
        let present = api.get_opt(&address.name).await?;
        let mut wanted = wanted.clone();
        wanted["metadata"]["namespace"] = json!(address.namespace);
        if let Some(fields) = wanted.as_object_mut() {
            fields.remove("status");
        }
        let done = match present {
            None => api.create(&parameters, &typed(wanted)?).await?,
            Some(present) => {
                over(&present, &mut wanted);
                api.replace(&address.name, &parameters, &typed(wanted)?)
                    .await?
            }
        };
        Ok(read(done, &resource))
    }

    /// Server-side apply, for objects others also write to (Deployments, Services, Namespaces).
    ///
    /// # Errors
    /// As [`Cluster::put`].
    pub(crate) async fn apply(&self, address: &Address, wanted: &Value) -> Result<(), ApiError> {
        let (api, _) = self.api(address);
        let parameters = PatchParams::apply(MANAGER).force();
        api.patch(&address.name, &parameters, &Patch::Apply(wanted))
            .await?;
        Ok(())
    }

    /// # Errors
    /// When it is not there, or may not be deleted.
    pub(crate) async fn delete(&self, address: &Address) -> Result<(), ApiError> {
        let (api, _) = self.api(address);
        api.delete(&address.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

fn typed(object: Value) -> Result<DynamicObject, ApiError> {
    serde_json::from_value(object)
        .map_err(|error| ApiError::new(Code::Invalid, error.to_string()).at("metadata"))
}

/// Lays a wanted form over the present object: what only the server writes is taken from there, and
/// kubectl's own note, without which its next apply would warn.
fn over(present: &DynamicObject, wanted: &mut Value) {
    let metadata = &mut wanted["metadata"];
    // A version the author names must still be the newest; otherwise the newest read is meant.
    if metadata.get("resourceVersion").is_none_or(Value::is_null) {
        metadata["resourceVersion"] = json!(present.metadata.resource_version);
    }
    metadata["uid"] = json!(present.metadata.uid);
    let finalizers = present
        .metadata
        .finalizers
        .as_ref()
        .filter(|list| !list.is_empty());
    if let Some(finalizers) = finalizers.filter(|_| metadata.get("finalizers").is_none()) {
        metadata["finalizers"] = json!(finalizers);
    }
    let note = present
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(LAST_APPLIED));
    if let Some(note) = note.filter(|_| {
        metadata
            .pointer("/annotations")
            .is_none_or(|all| all.get(LAST_APPLIED).is_none())
    }) {
        metadata["annotations"][LAST_APPLIED] = json!(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_kind_we_write_and_a_name() {
        let check = |object: Value| Address::of(&object).map(|a| (a.kind(), a.namespace, a.name));
        let gateway = |version: &str, name: &str| json!({"apiVersion": version, "kind": "Gateway", "metadata": {"name": name}});
        assert_eq!(
            check(gateway("networking.istio.io/v1beta1", "g")),
            Ok(("Gateway".into(), "default".into(), "g".into()))
        );
        let error = check(gateway("networking.istio.io/v9", "g")).unwrap_err();
        assert_eq!(
            error.fix.as_deref(),
            Some("write apiVersion: networking.istio.io/v1")
        );
        assert_eq!(
            check(gateway("networking.istio.io/v1", ""))
                .unwrap_err()
                .field
                .as_deref(),
            Some("metadata.name")
        );
        assert!(
            check(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}))
                .is_err()
        );
        assert!(check(json!({"kind": "Gateway"})).is_err());
        assert!(check(json!([])).is_err());
    }

    #[test]
    fn replacing_keeps_what_is_not_the_authors() {
        let present: DynamicObject = serde_json::from_value(json!({"metadata": {
            "name": "a", "resourceVersion": "7", "uid": "u", "annotations": {LAST_APPLIED: "{}"},
        }}))
        .unwrap();
        let mut wanted = json!({"metadata": {"name": "a"}, "spec": {}});
        over(&present, &mut wanted);
        assert_eq!(
            wanted["metadata"],
            json!({"name": "a", "resourceVersion": "7", "uid": "u", "annotations": {LAST_APPLIED: "{}"}})
        );
        let mut wanted = json!({"metadata": {"name": "a", "resourceVersion": "3"}});
        over(&present, &mut wanted);
        assert_eq!(wanted["metadata"]["resourceVersion"], "3");
    }
}
