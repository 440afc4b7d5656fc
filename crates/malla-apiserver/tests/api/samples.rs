//! A valid object of every kind: what the tests that walk all kinds start from.

use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use serde_json::{Value, json};

/// One kind and the smallest object of it that is valid: a kind of the table in `docs/local-cluster.md`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    #[serde(default)]
    pub(crate) namespaced: bool,
    /// The only name an object may have here.
    pub(crate) name: Option<String>,
    pub(crate) body: Value,
}

/// Defines the custom kind of the last sample.
pub(crate) const THINGS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

impl Sample {
    pub(crate) fn api(&self, client: Client) -> Api<DynamicObject> {
        let (group, version) = self
            .api_version
            .split_once('/')
            .unwrap_or(("", &self.api_version));
        let kind = GroupVersionKind::gvk(group, version, &self.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &self.plural);
        if self.namespaced {
            Api::namespaced_with(client, "default", &resource)
        } else {
            Api::all_with(client, &resource)
        }
    }

    /// As kubectl takes it: `deployments.v1.apps`.
    pub(crate) fn resource(&self) -> String {
        match self.api_version.split_once('/') {
            None => self.plural.clone(),
            Some((group, version)) => format!("{}.{version}.{group}", self.plural),
        }
    }

    pub(crate) fn name(&self, name: &str) -> String {
        self.name.clone().unwrap_or_else(|| name.to_owned())
    }

    pub(crate) fn object(&self, name: &str) -> DynamicObject {
        let mut object = self.body.clone();
        object["apiVersion"] = self.api_version.clone().into();
        object["kind"] = self.kind.clone().into();
        object["metadata"] = json!({"name": self.name(name), "labels": {"sample": "yes"}});
        serde_json::from_value(object).unwrap()
    }
}

/// One of every stored kind, and one custom kind, which [`THINGS`] defines.
pub(crate) fn samples() -> Vec<Sample> {
    serde_json::from_str(include_str!("samples.json")).unwrap()
}
