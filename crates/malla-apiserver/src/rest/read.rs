//! Get and list.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use malla_apimachinery::meta::ObjectKey;
use malla_apimachinery::selector::{FieldSelector, LabelSelector};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Target;
use crate::core::Core;
use crate::error::{ApiError, Reason};
use crate::store::Stored;

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Match {
    #[default]
    NotOlderThan,
    Exact,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    pub(crate) limit: Option<usize>,
    pub(crate) token: Option<String>,
    pub(crate) version: Option<u64>,
    pub(crate) matching: Match,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) version: u64,
    pub(crate) token: Option<String>,
    pub(crate) remaining: Option<usize>,
}

/// What `continue` holds: the snapshot and the last object sent.
#[derive(Serialize, Deserialize)]
pub(crate) struct Token {
    rv: u64,
    ns: String,
    name: String,
}

impl ListOptions {
    /// Parses selectors and checks that the kind has the fields.
    pub(crate) fn new(target: &Target, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let bad = |error: malla_apimachinery::selector::SelectorError| {
            ApiError::bad_request(error.to_string())
        };
        let fields = FieldSelector::parse(fields).map_err(bad)?;
        fields.check(&target.kind.selectable_fields).map_err(bad)?;
        Ok(Self {
            labels: LabelSelector::parse(labels).map_err(bad)?,
            fields,
            ..Self::default()
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(object)
    }
}

/// One object.
pub(crate) fn get(core: &Core, target: &Target) -> Result<Arc<Value>, ApiError> {
    let stored = core.store.get(target.resource(), &target.key());
    let stored = stored.ok_or_else(|| ApiError::not_found(target.about()))?;
    Ok(target.shown(&stored.object))
}

/// A page of objects, in order of namespace and name.
pub(crate) fn list(core: &Core, target: &Target, options: &ListOptions) -> Result<Page, ApiError> {
    if let Some(token) = &options.token {
        let token = parse_token(token)?;
        let after = ObjectKey {
            namespace: token.ns,
            name: token.name,
        };
        return list_past(core, target, options, token.rv, Some(after));
    }
    let world = core.store.read();
    let now = world.version();
    if let Some(version) = options.version.filter(|version| *version > now) {
        return Err(too_large(version, now));
    }
    if options.matching == Match::Exact
        && let Some(version) = options.version
    {
        drop(world);
        return list_past(core, target, options, version, None);
    }
    let namespace = namespace_of(target);
    let items = world.range(target.resource(), namespace, None);
    Ok(page(target, options, now, items))
}

fn list_past(
    core: &Core,
    target: &Target,
    options: &ListOptions,
    version: u64,
    after: Option<ObjectKey>,
) -> Result<Page, ApiError> {
    let continued = after.is_some();
    let objects = core.store.read().at(target.resource(), version);
    let objects = objects.ok_or_else(|| {
        if continued {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You must start a new list without the continue parameter.",
            )
        } else {
            ApiError::expired(format!(
                "The resourceVersion for the provided list is too old: {version}"
            ))
        }
    })?;
    let items = crate::store::range_of(&objects, namespace_of(target), after);
    Ok(page(target, options, version, items))
}

fn namespace_of(target: &Target) -> Option<&str> {
    (!target.namespace.is_empty()).then_some(target.namespace.as_str())
}

fn page<'a>(
    target: &Target,
    options: &ListOptions,
    version: u64,
    items: impl Iterator<Item = (&'a ObjectKey, &'a Stored)>,
) -> Page {
    let shown = items.map(|(key, stored)| (key, target.shown(&stored.object)));
    let mut matching = shown.filter(|(_, object)| options.matches(object));
    let mut page = Page {
        items: Vec::new(),
        version,
        token: None,
        remaining: None,
    };
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut last = None;
    while page.items.len() < limit {
        let Some((key, object)) = matching.next() else {
            return page;
        };
        page.items.push(object);
        last = Some(key);
    }
    let rest = matching.count();
    if let Some(last) = last.filter(|_| rest > 0) {
        page.token = Some(render_token(version, last));
        // With selectors kube-apiserver cannot count what it has not read; clients must not see a difference.
        let plain = options.labels.is_empty() && options.fields == FieldSelector::default();
        page.remaining = plain.then_some(rest);
    }
    page
}

fn render_token(version: u64, last: &ObjectKey) -> String {
    let token = json!({"rv": version, "ns": last.namespace, "name": last.name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

pub(crate) fn parse_token(text: &str) -> Result<Token, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    token.ok_or_else(|| ApiError::bad_request("continue key is not valid"))
}

fn too_large(version: u64, now: u64) -> ApiError {
    ApiError::new(
        Reason::Timeout,
        format!("Too large resource version: {version}, current: {now}"),
    )
    .with_details(json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }))
}
