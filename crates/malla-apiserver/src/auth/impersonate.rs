//! Impersonation (`kubectl --as`): a request by one user on behalf of another.
//!
//! Whoever proves an identity may do everything, so they may be anybody, too; the anonymous user may not. What follows
//! (authorization, webhooks, reviews) sees the other user only (k8s.io/apiserver `filters/impersonation.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use crate::error::{ApiError, Reason};
use crate::http::percent_decode;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
/// The rest of the name is a percent-encoded key.
const EXTRA: &str = "impersonate-extra-";

/// The user a request is to be answered for: `user`, or who its headers name. The headers are taken out.
pub(crate) fn effective(user: Arc<User>, headers: &mut HeaderMap) -> Result<Arc<User>, ApiError> {
    let name = take(headers, &USER)?.pop().unwrap_or_default();
    let uid = take(headers, &UID)?.pop().unwrap_or_default();
    let groups = take(headers, &GROUP)?;
    let extra = take_extra(headers)?;
    if name.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(ApiError::bad_request(
            "Impersonate-Uid, Impersonate-Group and Impersonate-Extra headers need an Impersonate-User header (kubectl: --as)",
        ));
    }
    if user.is_anonymous() {
        let message = format!(
            "users {name:?} is forbidden: User {ANONYMOUS:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    }
    tracing::debug!(user = user.name, as_user = name, "impersonation");
    let groups = complete(&name, groups);
    Ok(Arc::new(User {
        name,
        uid,
        groups,
        extra,
    }))
}

/// Adds the groups that come with being the user.
fn complete(name: &str, mut groups: Vec<String>) -> Vec<String> {
    if groups.is_empty()
        && let Some(account) = name.strip_prefix("system:serviceaccount:")
        && let Some((namespace, _)) = account.split_once(':')
    {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    let known = match name {
        ANONYMOUS => UNAUTHENTICATED,
        _ => AUTHENTICATED,
    };
    if !groups.iter().any(|group| group == known) {
        groups.push(known.to_owned());
    }
    groups
}

fn take(headers: &mut HeaderMap, name: &HeaderName) -> Result<Vec<String>, ApiError> {
    let http::header::Entry::Occupied(found) = headers.entry(name) else {
        return Ok(Vec::new());
    };
    let (_, values) = found.remove_entry_mult();
    values
        .map(|value| match value.to_str() {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ApiError::bad_request(format!(
                "the header {name} is not plain text"
            ))),
        })
        .collect()
}

fn take_extra(headers: &mut HeaderMap) -> Result<BTreeMap<String, Vec<String>>, ApiError> {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(EXTRA))
        .cloned()
        .collect();
    let mut extra = BTreeMap::new();
    for name in names {
        let values = take(headers, &name)?;
        let key = name.as_str().strip_prefix(EXTRA).unwrap_or_default();
        let key = percent_decode(key).ok_or_else(|| {
            ApiError::bad_request(format!("the header {name} is not percent-encoded UTF-8"))
        })?;
        extra.insert(key, values);
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, HeaderName};
    use serde_json::{Value, json};

    use super::effective;
    use crate::auth::User;

    fn ask(user: User, headers: &[(&'static str, &str)]) -> Result<Value, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let user = effective(Arc::new(user), &mut map);
        assert!(map.is_empty(), "{map:?}");
        user.map(|user| user.info())
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_known_user_may_be_anybody() {
        let admin = || User::certified("admin".to_owned(), Vec::new());
        let check = |headers: &[(&'static str, &str)], want: Value| {
            assert_eq!(ask(admin(), headers).unwrap(), want);
        };
        check(
            &[],
            json!({"username": "admin", "groups": ["system:authenticated"]}),
        );
        check(
            &[
                ("impersonate-user", "jane"),
                ("impersonate-group", "a"),
                ("impersonate-group", "b"),
                ("impersonate-extra-example.com%2fteam", "x"),
            ],
            json!({"username": "jane", "groups": ["a", "b", "system:authenticated"], "extra": {"example.com/team": ["x"]}}),
        );
        check(
            &[("impersonate-user", "system:serviceaccount:ns:sa")],
            json!({"username": "system:serviceaccount:ns:sa",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]}),
        );
        check(
            &[("impersonate-user", "system:anonymous")],
            json!({"username": "system:anonymous", "groups": ["system:unauthenticated"]}),
        );
        let alone = ask(admin(), &[("impersonate-group", "a")]).unwrap_err();
        assert!(alone.contains("need an Impersonate-User header"), "{alone}");
        let stranger = ask(User::anonymous(), &[("impersonate-user", "jane")]).unwrap_err();
        assert!(stranger.contains("cannot impersonate"), "{stranger}");
    }
}
