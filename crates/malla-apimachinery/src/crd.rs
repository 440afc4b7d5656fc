//! CustomResourceDefinitions: from the object to the kinds it serves.
//!
//! Invariant: a CRD for which [`kinds`] succeeds has at least one version, exactly one of them stored, and schemas, rules and
//! columns that all compile.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::builtin::rules::{CUSTOM, at, list, set_default, text};
use crate::error::FieldError;
use crate::kind::{ResourceKind, ScalePaths};
use crate::meta;
use crate::meta::labels::{dns_1035_problems, dns_subdomain_problems};
use crate::schema::Schema;
use crate::table::Columns;

/// The kinds a CRD declares, one per version (served or not), after checking all of it: names, versions, schemas, CEL rules,
/// columns. Errors are for a 422.
pub fn kinds(crd: &Value) -> Result<Vec<ResourceKind>, Vec<FieldError>> {
    let mut errors = Vec::new();
    check_names(crd, &mut errors);
    check_versions(crd, &mut errors);
    let mut kinds = Vec::new();
    for (index, version) in list(crd, &["spec", "versions"]).iter().enumerate() {
        kinds.extend(kind_of(
            crd,
            version,
            &format!("spec.versions[{index}]"),
            &mut errors,
        ));
    }
    if errors.is_empty() {
        Ok(kinds)
    } else {
        Err(errors)
    }
}

/// All that is wrong with a CRD.
pub(crate) fn validate(crd: &Value, errors: &mut Vec<FieldError>) {
    if let Err(problems) = kinds(crd) {
        errors.extend(problems);
    }
}

/// Names of an established CRD stay.
pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for path in [
        &["spec", "group"][..],
        &["spec", "scope"],
        &["spec", "names", "plural"],
        &["spec", "names", "kind"],
    ] {
        crate::builtin::rules::immutable(new, old, path, errors);
    }
    let stored = list(old, &["status", "storedVersions"]);
    let kept = |version: &Value| {
        list(new, &["spec", "versions"])
            .iter()
            .any(|candidate| candidate.get("name") == Some(version))
    };
    for (index, version) in stored.iter().enumerate() {
        if !kept(version) {
            let path = format!("status.storedVersions[{index}]");
            errors.push(FieldError::invalid(&path, version.clone(), "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in it and it is removed from status.storedVersions".replacen("v1", version.as_str().unwrap_or_default(), 1)));
        }
    }
}

/// `singular` and `listKind` follow from `kind`.
pub(crate) fn default_names(crd: &mut Value) {
    let kind = text(crd, &["spec", "names", "kind"]).to_owned();
    if let Some(names) = crd
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("names"))
        .filter(|_| !kind.is_empty())
    {
        set_default(names, "singular", kind.to_lowercase());
        set_default(names, "listKind", format!("{kind}List"));
    }
}

fn check_names(crd: &Value, errors: &mut Vec<FieldError>) {
    let group = text(crd, &["spec", "group"]);
    let plural = text(crd, &["spec", "names", "plural"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        errors.extend(
            dns_subdomain_problems(group)
                .into_iter()
                .map(|problem| FieldError::invalid("spec.group", group, problem)),
        );
        if !group.contains('.') {
            errors.push(FieldError::invalid(
                "spec.group",
                group,
                "should be a domain with at least one dot",
            ));
        }
    }
    let name = text(crd, &["metadata", "name"]);
    let wanted = format!("{plural}.{group}");
    if name != wanted {
        errors.push(FieldError::invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    match text(crd, &["spec", "scope"]) {
        "Namespaced" | "Cluster" => {}
        "" => errors.push(FieldError::required("spec.scope", "")),
        other => errors.push(FieldError::not_supported(
            "spec.scope",
            other,
            &["Cluster", "Namespaced"],
        )),
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{field}");
        let name = text(crd, &["spec", "names", field]);
        if name.is_empty() {
            if matches!(field, "plural" | "kind") {
                errors.push(FieldError::required(&path, ""));
            }
            continue;
        }
        errors.extend(
            dns_1035_problems(&name.to_lowercase())
                .into_iter()
                .map(|problem| FieldError::invalid(&path, name, problem)),
        );
        if matches!(field, "plural" | "singular") && name.to_lowercase() != name {
            errors.push(FieldError::invalid(&path, name, "must be lower case"));
        }
    }
    let strategy = text(crd, &["spec", "conversion", "strategy"]);
    if !matches!(strategy, "" | "None") {
        // Conversion webhooks need a client; this server converts by changing the apiVersion only.
        errors.push(FieldError::not_supported(
            "spec.conversion.strategy",
            strategy,
            &["None"],
        ));
    }
}

fn check_versions(crd: &Value, errors: &mut Vec<FieldError>) {
    let versions = list(crd, &["spec", "versions"]);
    if versions.is_empty() {
        errors.push(FieldError::required(
            "spec.versions",
            "must have at least one version",
        ));
        return;
    }
    let flag = |version: &Value, field: &str| version.get(field) == Some(&Value::Bool(true));
    if versions
        .iter()
        .filter(|version| flag(version, "storage"))
        .count()
        != 1
    {
        errors.push(FieldError::invalid(
            "spec.versions",
            versions.to_vec(),
            "must have exactly one version marked as storage version",
        ));
    }
    let mut names = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}].name");
        let name = text(version, &["name"]);
        errors.extend(
            dns_1035_problems(name)
                .into_iter()
                .map(|problem| FieldError::invalid(&path, name, problem)),
        );
        if names.contains(&name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        names.push(name);
    }
}

fn kind_of(
    crd: &Value,
    version: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Option<ResourceKind> {
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    let schema = match at(version, &["schema", "openAPIV3Schema"]) {
        Some(schema) => Schema::from_crd(schema, &schema_path)
            .map_err(|problems| errors.extend(problems))
            .ok(),
        None => {
            errors.push(FieldError::required(&schema_path, "schemas are required"));
            None
        }
    };
    let columns_path = format!("{path}.additionalPrinterColumns");
    let columns = Columns::from_crd(version.get("additionalPrinterColumns"), &columns_path);
    let columns = columns.map_err(|problems| errors.extend(problems)).ok();
    let scale =
        at(version, &["subresources", "scale"]).map(|scale| scale_paths(scale, path, errors));
    let names = at(crd, &["spec", "names"])?;
    let flag = |field: &str| version.get(field) == Some(&Value::Bool(true));
    let kind = text(names, &["kind"]).to_owned();
    let words = |field: &str| {
        list(names, &[field])
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let or = |field: &str, fallback: String| {
        Some(text(names, &[field]).to_owned())
            .filter(|name| !name.is_empty())
            .unwrap_or(fallback)
    };
    Some(ResourceKind {
        group: text(crd, &["spec", "group"]).to_owned(),
        version: text(version, &["name"]).to_owned(),
        list_kind: or("listKind", format!("{kind}List")),
        plural: text(names, &["plural"]).to_owned(),
        singular: or("singular", kind.to_lowercase()),
        short_names: words("shortNames"),
        categories: words("categories"),
        namespaced: text(crd, &["spec", "scope"]) == "Namespaced",
        status: at(version, &["subresources", "status"]).is_some(),
        scale,
        served: flag("served"),
        storage: flag("storage"),
        deprecation: flag("deprecated").then(|| deprecation(crd, version, &kind)),
        custom: true,
        review: false,
        schema: schema?,
        columns: columns?,
        selectable_fields: selectable_fields(version, path, errors),
        rules: CUSTOM,
        kind,
    })
}

fn deprecation(crd: &Value, version: &Value, kind: &str) -> String {
    match text(version, &["deprecationWarning"]) {
        "" => format!(
            "{}/{} {kind} is deprecated",
            text(crd, &["spec", "group"]),
            text(version, &["name"])
        ),
        warning => warning.to_owned(),
    }
}

fn scale_paths(scale: &Value, path: &str, errors: &mut Vec<FieldError>) -> ScalePaths {
    let mut read = |field: &str, root: &str| {
        let found = text(scale, &[field]).to_owned();
        let wanted = format!(".{root}.");
        if !found.starts_with(&wanted)
            && !(field == "labelSelectorPath" && (found.is_empty() || found.starts_with(".spec.")))
        {
            let detail = format!("should be a json path under .{root}");
            errors.push(FieldError::invalid(
                &format!("{path}.subresources.scale.{field}"),
                found.as_str(),
                detail,
            ));
        }
        found
    };
    ScalePaths {
        spec_replicas: read("specReplicasPath", "spec"),
        status_replicas: read("statusReplicasPath", "status"),
        label_selector: Some(read("labelSelectorPath", "status")).filter(|path| !path.is_empty()),
    }
}

fn selectable_fields(version: &Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<String> {
    let mut fields = Vec::new();
    for (index, field) in list(version, &["selectableFields"]).iter().enumerate() {
        let json_path = text(field, &["jsonPath"]);
        match json_path
            .strip_prefix('.')
            .filter(|path| !path.is_empty() && !path.contains(['[', '*']))
        {
            Some(simple) => fields.push(simple.to_owned()),
            None => {
                let at = format!("{path}.selectableFields[{index}].jsonPath");
                errors.push(FieldError::invalid(
                    &at,
                    json_path,
                    "must be a simple path of fields, e.g. .spec.color",
                ));
            }
        }
    }
    fields
}

/// Fills `status` of an accepted CRD: conditions NamesAccepted and Established, acceptedNames, storedVersions. Conditions that
/// hold already keep their time.
pub fn establish(crd: &mut Value, now: Timestamp) {
    let names = at(crd, &["spec", "names"])
        .cloned()
        .unwrap_or_else(|| json!({}));
    let storage = list(crd, &["spec", "versions"])
        .iter()
        .find(|version| version.get("storage") == Some(&Value::Bool(true)));
    let storage = storage.and_then(|version| version.get("name")).cloned();
    let mut stored = list(crd, &["status", "storedVersions"]).to_vec();
    stored.extend(storage.filter(|version| !stored.contains(version)));
    let Some(map) = crd.as_object_mut() else {
        return;
    };
    let status = map.entry("status").or_insert_with(|| json!({}));
    if !status.is_object() {
        *status = json!({});
    }
    let Some(status) = status.as_object_mut() else {
        return;
    };
    set_condition(
        status,
        "NamesAccepted",
        "NoConflicts",
        "no conflicts found",
        now,
    );
    set_condition(
        status,
        "Established",
        "InitialNamesAccepted",
        "the initial names have been accepted",
        now,
    );
    status.insert("acceptedNames".into(), names);
    status.insert("storedVersions".into(), stored.into());
}

fn set_condition(
    status: &mut Map<String, Value>,
    kind: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    let fresh = json!({
        "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": meta::time(now),
    });
    match conditions
        .iter_mut()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
    {
        Some(same) if same.get("status").and_then(Value::as_str) == Some("True") => {}
        Some(other) => *other = fresh,
        None => conditions.push(fresh),
    }
}

/// Converts a custom object between versions of its kind (strategy `None`: only `apiVersion` changes).
pub fn convert(object: &mut Value, to: &ResourceKind) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), to.api_version().into());
    }
}

#[cfg(test)]
#[path = "crd/tests.rs"]
mod tests;
