//! The built-in kinds.
//!
//! Shapes come from `k8s-openapi`; what those do not say is in [`lists`] (how lists merge), [`defaults`] and [`rules`].

mod defaults;
pub(crate) mod definitions;
mod lists;
pub(crate) mod rules;

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node as ClusterNode, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::schemars::JsonSchema;
use k8s_openapi::{NamespaceResourceScope, Resource, ResourceScope};
use serde_json::{Map, Value, json};

use crate::kind::{ResourceKind, ScalePaths};
use crate::schema::compile::Definitions;
use crate::schema::{Schema, Source};
use crate::table::Columns;
use definitions::Generator;

/// What a built-in kind has beside its shape.
#[derive(Debug, Clone, Copy, Default)]
struct Traits {
    short_names: &'static [&'static str],
    all: bool,
    status: bool,
    scale: bool,
    review: bool,
    fields: &'static [&'static str],
}

impl Traits {
    fn in_all(self) -> Self {
        Self { all: true, ..self }
    }

    fn with_status(self) -> Self {
        Self {
            status: true,
            ..self
        }
    }

    fn with_scale(self) -> Self {
        Self {
            scale: true,
            ..self
        }
    }

    fn selectable(self, fields: &'static [&'static str]) -> Self {
        Self { fields, ..self }
    }
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const NEW_EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "reason",
    "reportingController",
    "type",
];
const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

/// All built-in kinds. Building takes some milliseconds: do it once and share.
pub fn kinds() -> Vec<ResourceKind> {
    let mut registry = Registry {
        generator: Generator::new(),
        entries: Vec::new(),
    };
    let plain = Traits::default();
    let review = Traits {
        review: true,
        ..plain
    };
    let named = |short_names| Traits {
        short_names,
        ..plain
    };
    registry.add::<Namespace>(named(&["ns"]).with_status().selectable(&["status.phase"]));
    registry.add::<ClusterNode>(
        named(&["no"])
            .with_status()
            .selectable(&["spec.unschedulable"]),
    );
    registry.add::<Pod>(named(&["po"]).in_all().with_status().selectable(POD_FIELDS));
    registry.add::<Service>(
        named(&["svc"])
            .in_all()
            .with_status()
            .selectable(&["spec.clusterIP", "spec.type"]),
    );
    registry.add::<Endpoints>(named(&["ep"]));
    registry.add::<ConfigMap>(named(&["cm"]));
    registry.add::<Secret>(plain.selectable(&["type"]));
    registry.add::<ServiceAccount>(named(&["sa"]));
    registry.add::<Event>(named(&["ev"]).selectable(EVENT_FIELDS));
    registry.add::<Deployment>(named(&["deploy"]).in_all().with_status().with_scale());
    registry.add::<ReplicaSet>(
        named(&["rs"])
            .in_all()
            .with_status()
            .with_scale()
            .selectable(&["status.replicas"]),
    );
    registry.add::<EndpointSlice>(plain);
    registry.add::<Lease>(plain);
    registry.add::<MutatingWebhookConfiguration>(plain);
    registry.add::<ValidatingWebhookConfiguration>(plain);
    registry.add::<CustomResourceDefinition>(named(&["crd", "crds"]).with_status());
    registry.add::<NewEvent>(named(&["ev"]).selectable(NEW_EVENT_FIELDS));
    registry.add::<ClusterRole>(plain);
    registry.add::<ClusterRoleBinding>(plain);
    registry.add::<Role>(plain);
    registry.add::<RoleBinding>(plain);
    registry.add::<TokenReview>(review);
    registry.add::<SelfSubjectReview>(review);
    registry.add::<SubjectAccessReview>(review);
    registry.add::<SelfSubjectAccessReview>(review);
    registry.add::<SelfSubjectRulesReview>(review);
    registry.add::<LocalSubjectAccessReview>(review);
    registry.finish()
}

struct Entry {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    definition: String,
    traits: Traits,
}

struct Registry {
    generator: Generator,
    entries: Vec<Entry>,
}

impl Registry {
    fn add<T: Resource + JsonSchema>(&mut self, traits: Traits)
    where
        T::Scope: ScopeName,
    {
        self.generator.add::<T>();
        self.entries.push(Entry {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            plural: T::URL_PATH_SEGMENT,
            namespaced: T::Scope::NAMESPACED,
            definition: T::schema_name().into_owned(),
            traits,
        });
    }

    fn finish(self) -> Vec<ResourceKind> {
        let mut definitions = self.generator.finish();
        for entry in &self.entries {
            if let Some(definition) = definitions
                .get_mut(&entry.definition)
                .and_then(Value::as_object_mut)
            {
                let kind =
                    json!([{"group": entry.group, "version": entry.version, "kind": entry.kind}]);
                definition.insert("x-kubernetes-group-version-kind".into(), kind);
            }
        }
        let definitions = Arc::new(definitions);
        let mut compiler = Definitions::new(&definitions);
        self.entries
            .iter()
            .map(|entry| entry.build(&definitions, &mut compiler))
            .collect()
    }
}

impl Entry {
    fn build(
        &self,
        definitions: &Arc<Map<String, Value>>,
        compiler: &mut Definitions<'_>,
    ) -> ResourceKind {
        let source = Source::Builtin {
            definitions: Arc::clone(definitions),
            name: self.definition.clone(),
        };
        let scale = ScalePaths {
            spec_replicas: ".spec.replicas".to_owned(),
            status_replicas: ".status.replicas".to_owned(),
            label_selector: Some(".spec.selector".to_owned()),
        };
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ResourceKind {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            kind: self.kind.to_owned(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.to_owned(),
            singular: self.kind.to_lowercase(),
            short_names: owned(self.traits.short_names),
            categories: if self.traits.all {
                vec!["all".to_owned()]
            } else {
                Vec::new()
            },
            namespaced: self.namespaced,
            status: self.traits.status,
            scale: self.traits.scale.then_some(scale),
            served: true,
            storage: true,
            deprecation: None,
            custom: false,
            review: self.traits.review,
            schema: Schema {
                root: compiler.get(&self.definition),
                source,
            },
            columns: Columns::builtin(self.group, self.kind),
            selectable_fields: owned(self.traits.fields),
            rules: rules::of(self.group, self.kind),
        }
    }
}

/// Whether a scope of `k8s-openapi` is a namespace's.
trait ScopeName: ResourceScope {
    const NAMESPACED: bool;
}

impl ScopeName for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl ScopeName for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

#[cfg(test)]
#[path = "builtin/tests.rs"]
mod tests;
