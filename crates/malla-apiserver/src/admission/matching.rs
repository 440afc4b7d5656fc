//! Whether a webhook wants a request.

use std::sync::Arc;

use malla_apimachinery::crd;
use malla_apimachinery::kind::ResourceKind;
use malla_apimachinery::selector::LabelSelector;
use serde_json::{Value, json};

use super::hook::Hook;
use super::{Operation, Review};
use crate::core::Core;

/// One rule of a webhook.
#[derive(Debug, Default)]
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// A request in the version a webhook sees it.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub(super) kind: Arc<ResourceKind>,
}

impl Rule {
    pub(super) fn parse(rule: &Value) -> Self {
        let strings = |field: &str| {
            let list = rule[field].as_array().into_iter().flatten();
            list.filter_map(|one| Some(one.as_str()?.to_owned()))
                .collect()
        };
        Self {
            operations: strings("operations"),
            groups: strings("apiGroups"),
            versions: strings("apiVersions"),
            resources: strings("resources"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn matches(
        &self,
        kind: &ResourceKind,
        operation: Operation,
        subresource: Option<&str>,
    ) -> bool {
        let any = |list: &[String], word: &str| list.iter().any(|one| one == "*" || one == word);
        let scope = match self.scope.as_str() {
            "Namespaced" => kind.namespaced,
            "Cluster" => !kind.namespaced,
            _ => true,
        };
        scope
            && any(&self.operations, operation.word())
            && any(&self.groups, &kind.group)
            && any(&self.versions, &kind.version)
            && self
                .resources
                .iter()
                .any(|pattern| resource_matches(pattern, &kind.plural, subresource))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*`, `*/scale`, `*/*` (k8s.io/apiserver rules.go).
fn resource_matches(pattern: &str, plural: &str, subresource: Option<&str>) -> bool {
    let (resource, sub) = match pattern.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub)),
        None => (pattern, None),
    };
    let resource_fits = resource == "*" || resource == plural;
    let sub_fits = match sub {
        Some("*") => true,
        sub => sub.unwrap_or("") == subresource.unwrap_or(""),
    };
    resource_fits && sub_fits
}

/// The version of the request this webhook wants, if it wants it at all by rules and selectors. An error counts as a
/// failure of the webhook.
pub(super) fn wants(
    core: &Core,
    hook: &Hook,
    review: &Review<'_>,
    object: Option<&Value>,
) -> Result<Option<Invocation>, String> {
    let Some(kind) = by_rules(hook, review) else {
        return Ok(None);
    };
    let namespaces = hook.namespaces.as_ref().map_err(Clone::clone)?;
    let objects = hook.objects.as_ref().map_err(Clone::clone)?;
    if !namespace_matches(core, namespaces, review, object) {
        return Ok(None);
    }
    let old = review.old.as_deref();
    let selected = objects.is_empty()
        || [object, old]
            .into_iter()
            .flatten()
            .any(|object| objects.matches_object(object));
    Ok(selected.then_some(Invocation { kind }))
}

fn by_rules(hook: &Hook, review: &Review<'_>) -> Option<Arc<ResourceKind>> {
    let target = review.target;
    let fits = |kind: &ResourceKind| {
        let mut rules = hook.rules.iter();
        rules.any(|rule| rule.matches(kind, review.operation, review.subresource))
    };
    if fits(&target.kind) {
        return Some(target.kind.clone());
    }
    if !hook.equivalent {
        return None;
    }
    let mut versions = target.family.versions.iter();
    versions.find(|kind| kind.served && fits(kind)).cloned()
}

fn namespace_matches(
    core: &Core,
    selector: &LabelSelector,
    review: &Review<'_>,
    object: Option<&Value>,
) -> bool {
    if selector.is_empty() {
        return true;
    }
    let target = review.target;
    if &**target.resource() == "namespaces" {
        let namespace = object.or(review.old.as_deref());
        return namespace.is_some_and(|namespace| selector.matches_object(namespace));
    }
    if !target.kind.namespaced {
        return true;
    }
    let namespace = core.stored("namespaces", "", &target.namespace);
    namespace.is_some_and(|namespace| selector.matches_object(&namespace.object))
}

/// Whether all match conditions hold. The first that is false decides; without one, an error does.
pub(super) fn conditions(
    hook: &Hook,
    request: &Value,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<bool, String> {
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    let variables = [
        ("object", object.unwrap_or(&Value::Null)),
        ("oldObject", old.unwrap_or(&Value::Null)),
        ("request", request),
    ];
    let mut failure = None;
    for (name, condition) in &hook.conditions {
        let outcome = match condition {
            Ok(condition) => condition.evaluate(&variables),
            Err(error) => Err(error.clone()),
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => failure = Some(format!("match condition {name:?}: {error}")),
        }
    }
    failure.map_or(Ok(true), Err)
}

impl Invocation {
    /// An object in this version.
    pub(super) fn convert(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if object["apiVersion"].is_string() {
            crd::convert(&mut object, &self.kind);
        }
        object
    }

    /// The `AdmissionReview` request, without its objects.
    pub(super) fn request(&self, review: &Review<'_>, user: Value, dry_run: bool) -> Value {
        let names = |kind: &ResourceKind| {
            (
                json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
                json!({"group": kind.group, "version": kind.version, "resource": kind.plural}),
            )
        };
        let (kind, resource) = names(&self.kind);
        let (request_kind, request_resource) = names(&review.target.kind);
        let mut request = json!({
            "uid": uuid::Uuid::new_v4().to_string(),
            "kind": kind, "resource": resource,
            "requestKind": request_kind, "requestResource": request_resource,
            "operation": review.operation.word(),
            "userInfo": user,
            "dryRun": dry_run,
            "options": review.options,
        });
        let namespace = match review.target.kind.namespaced {
            true => review.target.namespace.as_str(),
            false if &**review.target.resource() == "namespaces" => review.name,
            false => "",
        };
        if let Some(kind) = review.object_kind {
            request["kind"]["kind"] = kind.into();
            request["requestKind"]["kind"] = kind.into();
        }
        for (field, value) in [
            ("subResource", review.subresource.unwrap_or("")),
            ("requestSubResource", review.subresource.unwrap_or("")),
            ("name", review.name),
            ("namespace", namespace),
        ] {
            if !value.is_empty() {
                request[field] = value.into();
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::resource_matches;

    #[test]
    fn resource_patterns_match_as_in_kubernetes() {
        let check = |pattern: &str, path: &str, want: bool| {
            let (plural, sub) = match path.split_once('/') {
                Some((plural, sub)) => (plural, Some(sub)),
                None => (path, None),
            };
            assert_eq!(
                resource_matches(pattern, plural, sub),
                want,
                "{pattern} {path}"
            );
        };
        check("pods", "pods", true);
        check("pods", "pods/status", false);
        check("pods/*", "pods/status", true);
        check("pods/*", "pods", true);
        check("*", "pods", true);
        check("*", "pods/exec", false);
        check("*/*", "pods/exec", true);
        check("*/scale", "deployments/scale", true);
        check("*/scale", "deployments", false);
    }
}
