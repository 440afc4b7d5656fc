//! One served version of one kind, built-in or custom: names, schema, printing and the rules of its life.
//!
//! Invariant: after [`ResourceKind::decode`] and [`ResourceKind::default_object`], an object holds only fields its
//! schema knows (or explicitly preserves).

use serde_json::Value;
use thiserror::Error;

use crate::builtin::rules::Rules;
use crate::error::FieldError;
use crate::meta;
use crate::schema::Schema;
use crate::table::Columns;

/// The `fieldValidation` query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Unknown fields are dropped silently.
    Ignore,
    /// Unknown fields are dropped and named in `Warning` headers. The default.
    #[default]
    Warn,
    /// Unknown fields fail the request.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; `None` for an unknown word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Why a request body is not an object of this kind (HTTP 400).
#[derive(Debug, Clone, PartialEq, Error)]
pub enum DecodeError {
    /// The body is not an object, or has another `apiVersion` or `kind`.
    #[error("{0}")]
    Mismatch(String),
    /// `fieldValidation=Strict` and there are unknown fields.
    #[error(
        "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {fields}"
    )]
    Strict {
        /// The kind that was decoded.
        kind: String,
        /// The version that was decoded.
        version: String,
        /// `unknown field "spec.x", unknown field "spec.y"`.
        fields: String,
    },
    /// A field of a built-in kind has the wrong JSON type.
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {detail}")]
    Type {
        /// The kind that was decoded.
        kind: String,
        /// The version that was decoded.
        version: String,
        /// What is wrong and where.
        detail: String,
    },
}

/// Where a custom kind keeps what the `scale` subresource shows (JSON paths such as `.spec.replicas`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Path of the wanted count.
    pub spec_replicas: String,
    /// Path of the observed count.
    pub status_replicas: String,
    /// Path of the label selector, if any: a string, or a `LabelSelector` object in built-in kinds.
    pub label_selector: Option<String>,
}

/// Everything the machinery knows about one served version of a kind.
#[derive(Debug, Clone)]
pub struct ResourceKind {
    /// API group; empty for core.
    pub group: String,
    /// Version within the group, e.g. `v1`.
    pub version: String,
    /// Kind, e.g. `Deployment`.
    pub kind: String,
    /// Kind of a list, e.g. `DeploymentList`.
    pub list_kind: String,
    /// Resource name in URLs, e.g. `deployments`.
    pub plural: String,
    /// Singular resource name, e.g. `deployment`.
    pub singular: String,
    /// Abbreviations for `kubectl`.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// The `scale` subresource, if there is one.
    pub scale: Option<ScalePaths>,
    /// Whether this version is served.
    pub served: bool,
    /// Whether this version is the stored one.
    pub storage: bool,
    /// Text of the `Warning` header when the version is deprecated.
    pub deprecation: Option<String>,
    /// Whether this is a custom kind: no strategic merge patch, values checked by schema only.
    pub custom: bool,
    /// Whether objects can only be created and are answered, not stored (reviews).
    pub review: bool,
    /// Shape of the object.
    pub schema: Schema,
    /// What `kubectl get` prints.
    pub columns: Columns,
    /// Field paths usable in field selectors beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<String>,
    pub(crate) rules: Rules,
}

impl ResourceKind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`, as in error messages.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Checks `apiVersion` and `kind` (filling them in where absent), drops unknown fields in place and returns the warnings
    /// to send, e.g. `unknown field "spec.x"`. Built-in kinds also get their types checked, as Go's decoder does.
    pub fn decode(
        &self,
        object: &mut Value,
        validation: FieldValidation,
    ) -> Result<Vec<String>, DecodeError> {
        self.check_type_meta(object)?;
        let unknown = self.schema.prune(object);
        let texts: Vec<String> = unknown
            .iter()
            .map(|path| self.unknown_field(path))
            .collect();
        if validation == FieldValidation::Strict && !texts.is_empty() {
            let (kind, version) = (self.kind.clone(), self.version.clone());
            return Err(DecodeError::Strict {
                kind,
                version,
                fields: texts.join(", "),
            });
        }
        if self.custom {
            self.schema.drop_null_metadata(object);
        } else {
            self.schema.drop_nulls(object);
            if let Some(detail) = self.schema.check_types(object) {
                return Err(DecodeError::Type {
                    kind: self.kind.clone(),
                    version: self.version.clone(),
                    detail,
                });
            }
        }
        Ok(if validation == FieldValidation::Warn {
            texts
        } else {
            Vec::new()
        })
    }

    /// Kubernetes' words; of custom kinds also the field that was meant. (Built-in schemas may contain themselves, so they
    /// cannot be searched this way.)
    fn unknown_field(&self, path: &str) -> String {
        let meant = self.custom.then(|| self.schema.meant(path)).flatten();
        let meant = meant.map(|meant| format!(" (did you mean {meant:?}?)"));
        format!("unknown field {path:?}{}", meant.unwrap_or_default())
    }

    fn check_type_meta(&self, object: &mut Value) -> Result<(), DecodeError> {
        let mismatch = |text: String| Err(DecodeError::Mismatch(text));
        let Some(map) = object.as_object_mut() else {
            return mismatch(format!(
                "the request body must be a JSON object: a {}",
                self.kind
            ));
        };
        let wanted = self.api_version();
        match map.get("apiVersion") {
            None | Some(Value::Null) => {}
            Some(found) if *found == wanted.as_str() => {}
            Some(found) => {
                let found = found
                    .as_str()
                    .map_or_else(|| found.to_string(), str::to_owned);
                return mismatch(format!(
                    "the API version in the data ({found}) does not match the expected API version ({wanted})"
                ));
            }
        }
        match map.get("kind") {
            None | Some(Value::Null) => {}
            Some(found) if *found == self.kind.as_str() => {}
            Some(found) => {
                let found = found
                    .as_str()
                    .map_or_else(|| found.to_string(), str::to_owned);
                return mismatch(format!(
                    "{found} in version {:?} cannot be handled as a {}",
                    self.version, self.kind
                ));
            }
        }
        map.insert("apiVersion".to_owned(), wanted.into());
        map.insert("kind".to_owned(), self.kind.as_str().into());
        Ok(())
    }

    /// Fills in the defaults of the kind. Idempotent.
    pub fn default_object(&self, object: &mut Value) {
        self.schema.default(object);
        (self.rules.default)(object);
        if !self.custom {
            // What the rules added may have defaults of its own.
            self.schema.default(object);
        }
    }

    /// All that is wrong with a new object, metadata included. Call after defaulting.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        self.validate(object, None)
    }

    /// All that is wrong with replacing `old` by `new`: values, immutable fields, CEL transition rules. What was invalid in
    /// a custom object before and is unchanged may stay.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new, Some(old));
        (self.rules.validate_update)(new, old, &mut errors);
        errors
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        if self.review {
            return self.schema.validate_builtin(object);
        }
        let mut errors = meta::validate(object, self.namespaced, self.rules.name);
        if self.custom {
            errors.extend(self.schema.validate(object, old));
            return errors;
        }
        (self.rules.validate)(object, &mut errors);
        for error in self.schema.validate_builtin(object) {
            // The kind's own rule says it better, where it says it.
            if !errors.iter().any(|known| known.path == error.path) {
                errors.push(error);
            }
        }
        errors
    }

    /// Fields this endpoint does not write, for [`crate::apply::Manager::ignored`]: `status` for the main resource (if
    /// it has the subresource), everything but `status` for the `status` subresource.
    pub fn ignored_fields(&self, subresource: Option<&str>) -> &'static [&'static str] {
        match subresource {
            Some("status") => &[
                "spec",
                "metadata.labels",
                "metadata.annotations",
                "metadata.finalizers",
                "metadata.ownerReferences",
            ],
            None if self.status => &["status"],
            _ => &[],
        }
    }
}
