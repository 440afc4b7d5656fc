//! The review kinds: answered, never stored.

use serde_json::{Value, json};

use super::User;
use crate::core::Core;
use crate::error::ApiError;

/// Answers a review object posted by `user`.
pub(crate) fn answer(
    core: &Core,
    kind: &str,
    mut review: Value,
    user: &User,
) -> Result<Value, ApiError> {
    let status = match kind {
        "TokenReview" => token(core, &review["spec"]),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => subject(&review["spec"])?,
        "SelfSubjectAccessReview" => access(!user.is_anonymous()),
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        "SelfSubjectReview" => json!({"userInfo": user.info()}),
        other => {
            return Err(ApiError::internal(format!(
                "no answer to reviews of kind {other}"
            )));
        }
    };
    review["status"] = status;
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    review["metadata"]["creationTimestamp"] = Value::Null;
    Ok(review)
}

/// Whether a token is good, for the audiences asked (the API server's own by default).
fn token(core: &Core, spec: &Value) -> Value {
    let strings = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect()
    };
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(core.tokens.issuer().to_owned());
    }
    let token = spec["token"].as_str().unwrap_or_default();
    let verified = core
        .tokens
        .verify(token, &audiences, &core.store.read(), core.now());
    match verified {
        Ok(verified) => json!({
            "authenticated": true,
            "user": verified.user.info(),
            "audiences": verified.audiences,
        }),
        Err(error) => json!({
            "user": {},
            "error": format!("[invalid bearer token, {error}]"),
        }),
    }
}

fn subject(spec: &Value) -> Result<Value, ApiError> {
    let user = spec["user"].as_str().unwrap_or_default();
    let groups = spec["groups"]
        .as_array()
        .is_some_and(|groups| !groups.is_empty());
    if user.is_empty() && !groups {
        return Err(ApiError::bad_request(
            "spec.user: Required value: at least one of user or group must be specified",
        ));
    }
    Ok(access(user != super::ANONYMOUS))
}

fn access(allowed: bool) -> Value {
    if allowed {
        return json!({"allowed": true, "reason": "every authenticated user of this cluster may do everything"});
    }
    json!({"allowed": false, "reason": "anonymous users may only ask for health and version"})
}
