//! Field errors in kube-apiserver's words, and how they become a `metav1.Status`.
//!
//! Invariant: `Display` prints exactly what kube-apiserver prints, e.g. `spec.replicas: Invalid value: -1: must be
//! greater than or equal to 0`, because users search the web for these texts.

use std::fmt;

use serde_json::{Value, json};

/// What is wrong with a field; the vocabulary of `k8s.io/apimachinery/pkg/util/validation/field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The value is malformed or out of range.
    Invalid,
    /// A value is needed and absent.
    Required,
    /// The value is not one of those allowed.
    NotSupported,
    /// The value may not be set here.
    Forbidden,
    /// The value must be unique and is not.
    Duplicate,
    /// The value names something that does not exist.
    NotFound,
    /// The value is longer than allowed.
    TooLong,
    /// The list has more entries than allowed.
    TooMany,
    /// The value has the wrong JSON type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The words `kubectl` shows.
    pub fn words(self) -> &'static str {
        match self {
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Required => "Required value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }

    /// The `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One problem with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Where, e.g. `spec.containers[0].name`.
    pub path: String,
    /// The offending value, if it is printed (`Invalid value: "x"`).
    pub value: Option<Box<Value>>,
    /// The explanation after the value; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &str, value: Option<Value>, detail: String) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            value: value.map(Box::new),
            detail,
        }
    }

    /// `path: Invalid value: value: detail`.
    pub fn invalid(path: &str, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(
            FieldErrorKind::Invalid,
            path,
            Some(value.into()),
            detail.into(),
        )
    }

    /// `path: Required value: detail`.
    pub fn required(path: &str, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, None, detail.into())
    }

    /// `path: Forbidden: detail`.
    pub fn forbidden(path: &str, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, None, detail.into())
    }

    /// `path: Duplicate value: value`.
    pub fn duplicate(path: &str, value: impl Into<Value>) -> Self {
        Self::new(
            FieldErrorKind::Duplicate,
            path,
            Some(value.into()),
            String::new(),
        )
    }

    /// `path: Not found: value`.
    pub fn not_found(path: &str, value: impl Into<Value>) -> Self {
        Self::new(
            FieldErrorKind::NotFound,
            path,
            Some(value.into()),
            String::new(),
        )
    }

    /// `path: Unsupported value: value: supported values: "A", "B"`.
    pub fn not_supported(path: &str, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        Self::new(
            FieldErrorKind::NotSupported,
            path,
            Some(value.into()),
            detail,
        )
    }

    /// `path: Too long: may not be more than N bytes`.
    pub fn too_long(path: &str, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TooLong, path, None, detail.into())
    }

    /// `path: Too many: N: must have at most M items`.
    pub fn too_many(path: &str, actual: usize, max: u64) -> Self {
        let detail = format!("must have at most {max} items");
        Self::new(FieldErrorKind::TooMany, path, Some(json!(actual)), detail)
    }

    /// `path: Invalid value: "array": path in body must be of type object: "array"`.
    pub fn wrong_type(path: &str, found: &str, detail: impl Into<String>) -> Self {
        Self::new(
            FieldErrorKind::TypeInvalid,
            path,
            Some(found.into()),
            detail.into(),
        )
    }

    /// The message of the cause: everything but the path.
    pub fn message(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            // Go prints the absent value as this word, in quotes.
            text.push_str(&if value.is_null() {
                "\"null\"".to_owned()
            } else {
                value.to_string()
            });
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The `metav1.StatusCause` of this error.
    pub fn cause(&self) -> Value {
        json!({"reason": self.kind.reason(), "message": self.message(), "field": self.path})
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message());
        }
        write!(f, "{}: {}", self.path, self.message())
    }
}

/// Joins errors as kube-apiserver does: one plain, several in brackets.
pub fn join(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => {
            let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

/// The 422 `metav1.Status` for an object that failed validation: `Deployment.apps "web" is invalid: …`.
pub fn invalid_status(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Value {
    let qualified = if group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{group}")
    };
    let causes: Vec<Value> = errors.iter().map(FieldError::cause).collect();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{qualified} {name:?} is invalid: {}", join(errors)),
        "reason": "Invalid",
        "details": {"name": name, "group": group, "kind": kind, "causes": causes},
        "code": 422,
    })
}

#[cfg(test)]
mod tests {
    use super::{FieldError, invalid_status};

    #[test]
    fn prints_like_kube_apiserver() {
        let check = |error: FieldError, want: &str| assert_eq!(error.to_string(), want);
        check(
            FieldError::required("spec.hosts", ""),
            "spec.hosts: Required value",
        );
        check(
            FieldError::invalid("spec.replicas", -1, "must be >= 0"),
            "spec.replicas: Invalid value: -1: must be >= 0",
        );
        check(
            FieldError::not_supported("spec.type", "X", &["ClusterIP", "NodePort"]),
            r#"spec.type: Unsupported value: "X": supported values: "ClusterIP", "NodePort""#,
        );
        check(
            FieldError::duplicate("a[1]", "x"),
            r#"a[1]: Duplicate value: "x""#,
        );
    }

    #[test]
    fn several_errors_are_bracketed() {
        let errors = [FieldError::required("a", ""), FieldError::required("b", "")];
        let status = invalid_status("apps", "Deployment", "web", &errors);
        assert_eq!(
            status["message"],
            r#"Deployment.apps "web" is invalid: [a: Required value, b: Required value]"#
        );
        assert_eq!(status["details"]["causes"][1]["field"], "b");
    }
}
