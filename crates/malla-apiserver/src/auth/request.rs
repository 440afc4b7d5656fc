//! `TokenRequest`: making service-account tokens.

use jiff::Timestamp;
use malla_apimachinery::error::FieldError;
use malla_apimachinery::meta;
use serde_json::{Value, json};

use super::token::{Claims, Reference};
use crate::client::{BoundObject, Token, TokenParams};
use crate::core::Core;
use crate::error::{About, ApiError};
use crate::rest::Target;

/// Kubernetes' bounds and default (pkg/apis/authentication/validation; defaults.go).
const MIN_SECONDS: u64 = 600;
const MAX_SECONDS: u64 = 1 << 32;
const DEFAULT_SECONDS: u64 = 3600;
/// Most audiences of one token.
const MAX_AUDIENCES: usize = 64;

/// Answers a `TokenRequest` posted to an account.
pub(crate) fn answer(core: &Core, target: &Target, mut request: Value) -> Result<Value, ApiError> {
    let wanted = "the API version in the data does not match the expected API version (authentication.k8s.io/v1, Kind=TokenRequest)";
    if !request.is_object() || !matches!(request["kind"].as_str(), None | Some("TokenRequest")) {
        return Err(ApiError::bad_request(wanted));
    }
    let spec = &request["spec"];
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let bound = &spec["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or_default().to_owned();
    let params = TokenParams {
        audiences: audiences
            .filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect(),
        expiration_seconds: match &spec["expirationSeconds"] {
            Value::Null => None,
            seconds => Some(seconds.as_u64().unwrap_or(0)),
        },
        bound_object: bound.is_object().then(|| BoundObject {
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
        }),
    };
    let audiences = audiences_of(core, &params);
    let token = make(core, &target.namespace, &target.name, &params)?;
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["metadata"] = json!({
        "name": target.name, "namespace": target.namespace,
        "creationTimestamp": meta::time(core.now()),
    });
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] =
        params.expiration_seconds.unwrap_or(DEFAULT_SECONDS).into();
    request["status"] = json!({
        "token": token.token, "expirationTimestamp": meta::time(token.expires),
    });
    Ok(request)
}

/// Makes a token for an account that exists.
pub(crate) fn make(
    core: &Core,
    namespace: &str,
    name: &str,
    params: &TokenParams,
) -> Result<Token, ApiError> {
    let seconds = params.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    let invalid =
        |error| ApiError::invalid("authentication.k8s.io", "TokenRequest", name, &[error]);
    if seconds < MIN_SECONDS {
        let detail = "may not specify a duration less than 10 minutes";
        return Err(invalid(FieldError::invalid(
            "spec.expirationSeconds",
            seconds,
            detail,
        )));
    }
    if seconds > MAX_SECONDS {
        let detail = "may not specify a duration larger than 2^32 seconds";
        return Err(invalid(FieldError::invalid(
            "spec.expirationSeconds",
            seconds,
            detail,
        )));
    }
    if params.audiences.len() > MAX_AUDIENCES {
        return Err(invalid(FieldError::too_many(
            "spec.audiences",
            params.audiences.len(),
            MAX_AUDIENCES as u64,
        )));
    }
    let account = core.stored("serviceaccounts", namespace, name);
    let account = account.ok_or_else(|| {
        ApiError::not_found(About {
            group: "",
            resource: "serviceaccounts",
            name,
        })
    })?;
    let (bound, node) = match &params.bound_object {
        Some(bound) => {
            let (bound, node) = resolve(core, namespace, name, bound)?;
            (Some(bound), node)
        }
        None => (None, None),
    };
    let now = core.now();
    let signed = i64::try_from(seconds).unwrap_or(i64::MAX);
    let claims = Claims::new(
        &account.object,
        bound.as_ref(),
        node,
        audiences_of(core, params),
        now,
        signed,
    );
    let expires = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
    let token = core.tokens.sign(claims).map_err(ApiError::internal)?;
    Ok(Token { token, expires })
}

fn audiences_of(core: &Core, params: &TokenParams) -> Vec<String> {
    match params.audiences.as_slice() {
        [] => vec![core.tokens.issuer().to_owned()],
        some => some.to_vec(),
    }
}

/// The bound object with its uid, and the node of a bound pod.
fn resolve(
    core: &Core,
    namespace: &str,
    account: &str,
    bound: &BoundObject,
) -> Result<(BoundObject, Option<Reference>), ApiError> {
    let about = |resource| About {
        group: "",
        resource,
        name: &bound.name,
    };
    let (resource, namespace) = match bound.kind.as_str() {
        "Pod" => ("pods", namespace),
        "Secret" => ("secrets", namespace),
        "Node" => ("nodes", ""),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to object of kind {other:?}: use Pod, Secret or Node"
            )));
        }
    };
    let found = core.stored(resource, namespace, &bound.name);
    let found = found.ok_or_else(|| ApiError::not_found(about(resource)))?;
    let uid = found.object["metadata"]["uid"].as_str().unwrap_or_default();
    if !bound.uid.is_empty() && bound.uid != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound.uid
        );
        return Err(ApiError::conflict(about(resource), why));
    }
    let mut node = None;
    if resource == "pods" {
        if found.object["spec"]["serviceAccountName"] != account {
            let why = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(ApiError::bad_request(why));
        }
        node = found.object["spec"]["nodeName"]
            .as_str()
            .map(|name| Reference {
                name: name.to_owned(),
                uid: core
                    .stored("nodes", "", name)
                    .and_then(|node| Some(node.object["metadata"]["uid"].as_str()?.to_owned()))
                    .unwrap_or_default(),
            });
    }
    let bound = BoundObject {
        uid: uid.to_owned(),
        ..bound.clone()
    };
    Ok((bound, node))
}
