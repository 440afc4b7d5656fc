//! What a path names.

use crate::error::ApiError;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    Root,
    Health,
    Version,
    Api,
    Apis,
    Group(String),
    GroupVersion(String, String),
    OpenApiIndex,
    /// `api/v1`, `apis/apps/v1`.
    OpenApi(String),
    OpenApiV2,
    OpenIdConfiguration,
    Jwks,
    Resource(ResourcePath),
    Unknown,
}

/// `/api/v1/namespaces/{namespace}/{resource}/{name}/{subresource}` and its shorter forms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) namespace: String,
    pub(super) resource: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

impl Path {
    pub(super) fn parse(path: &str) -> Result<Self, ApiError> {
        let segments: Option<Vec<String>> = path
            .trim_matches('/')
            .split('/')
            .map(percent_decode)
            .collect();
        let segments = segments.ok_or_else(|| {
            ApiError::bad_request(format!("the path {path:?} is not valid UTF-8"))
        })?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        Ok(match segments.as_slice() {
            [""] => Self::Root,
            ["healthz" | "readyz" | "livez", ..] => Self::Health,
            ["version"] => Self::Version,
            ["api"] => Self::Api,
            ["apis"] => Self::Apis,
            ["apis", group] => Self::Group((*group).to_owned()),
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", rest @ ..] => Self::OpenApi(rest.join("/")),
            [".well-known", "openid-configuration"] => Self::OpenIdConfiguration,
            ["openid", "v1", "jwks"] => Self::Jwks,
            ["api", version, rest @ ..] => Self::resource("", version, rest),
            ["apis", group, version, rest @ ..] if !group.is_empty() => {
                Self::resource(group, version, rest)
            }
            _ => Self::Unknown,
        })
    }

    fn resource(group: &str, version: &str, rest: &[&str]) -> Self {
        let (namespace, resource, name, subresource) = match rest {
            [] => return Self::GroupVersion(group.to_owned(), version.to_owned()),
            [resource] => ("", *resource, "", ""),
            ["namespaces", name] => ("", "namespaces", *name, ""),
            ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
                ("", "namespaces", *name, *sub)
            }
            ["namespaces", namespace, resource] => (*namespace, *resource, "", ""),
            ["namespaces", namespace, resource, name] => (*namespace, *resource, *name, ""),
            ["namespaces", namespace, resource, name, sub] => (*namespace, *resource, *name, *sub),
            [resource, name] => ("", *resource, *name, ""),
            [resource, name, sub] => ("", *resource, *name, *sub),
            _ => return Self::Unknown,
        };
        Self::Resource(ResourcePath {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    /// The path again, for messages.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Root | Self::Unknown | Self::Resource(_) => "/".to_owned(),
            Self::Health => "/healthz".to_owned(),
            Self::Version => "/version".to_owned(),
            Self::Api => "/api".to_owned(),
            Self::Apis => "/apis".to_owned(),
            Self::Group(group) => format!("/apis/{group}"),
            Self::GroupVersion(group, version) if group.is_empty() => format!("/api/{version}"),
            Self::GroupVersion(group, version) => format!("/apis/{group}/{version}"),
            Self::OpenApiIndex => "/openapi/v3".to_owned(),
            Self::OpenApi(path) => format!("/openapi/v3/{path}"),
            Self::OpenApiV2 => "/openapi/v2".to_owned(),
            Self::OpenIdConfiguration => "/.well-known/openid-configuration".to_owned(),
            Self::Jwks => "/openid/v1/jwks".to_owned(),
        }
    }
}

/// Decodes `%xx`; `None` if the result is not UTF-8 or holds a NUL.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{Path, ResourcePath, percent_decode};

    #[track_caller]
    fn check(path: &str, want: [&str; 6]) {
        let [group, version, namespace, resource, name, subresource] = want.map(str::to_owned);
        let want = ResourcePath {
            group,
            version,
            namespace,
            resource,
            name,
            subresource,
        };
        assert_eq!(Path::parse(path).unwrap(), Path::Resource(want));
    }

    #[test]
    fn paths_name_resources() {
        check("/api/v1/pods", ["", "v1", "", "pods", "", ""]);
        check("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]);
        check(
            "/api/v1/namespaces/a",
            ["", "v1", "", "namespaces", "a", ""],
        );
        check(
            "/api/v1/namespaces/a/finalize",
            ["", "v1", "", "namespaces", "a", "finalize"],
        );
        check(
            "/api/v1/namespaces/a/pods/b/log",
            ["", "v1", "a", "pods", "b", "log"],
        );
        check(
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            ["apps", "v1", "a", "deployments", "b", "scale"],
        );
        check(
            "/apis/x.io/v1/widgets/w%2Fx/status/",
            ["x.io", "v1", "", "widgets", "w/x", "status"],
        );
    }

    #[test]
    fn what_is_not_a_path_is_refused() {
        assert_eq!(Path::parse("/api/v1/a/b/c/d/e/f").unwrap(), Path::Unknown);
        assert!(Path::parse("/api/v1/%ff").is_err());
        assert_eq!(percent_decode("a%00b"), None);
        assert_eq!(percent_decode("a%2"), None);
    }
}
