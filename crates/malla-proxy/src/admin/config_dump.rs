//! `/config_dump`: every resource in use, as it was given, in Envoy's `ConfigDump` shape.
use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use malla_xds_proto::bootstrap::Bootstrap;
use malla_xds_proto::{json as proto_json, type_url};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{Admin, Query, clusters, mask, timestamp};
use crate::inventory::Entry;

const DUMP: &str = "type.googleapis.com/envoy.admin.v3.";
const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// base64 of `[redacted]`, which Envoy puts in place of secrets.
const REDACTED: &str = "W3JlZGFjdGVkXQ==";

/// One section of the dump.
struct Section {
    /// Message of the section, such as `ClustersConfigDump`.
    message: &'static str,
    /// Fields of static resources (if there can be any) and of dynamic ones.
    fixed: &'static str,
    dynamic: &'static str,
    /// Field of the resource in its entry.
    item: &'static str,
    /// Entries of dynamic resources.
    dynamic_message: &'static str,
    type_url: &'static str,
}

const SECTIONS: [Section; 6] = [
    Section {
        message: "ClustersConfigDump",
        fixed: "static_clusters",
        dynamic: "dynamic_active_clusters",
        item: "cluster",
        dynamic_message: "ClustersConfigDump.DynamicCluster",
        type_url: type_url::CLUSTER,
    },
    Section {
        message: "ListenersConfigDump",
        fixed: "static_listeners",
        dynamic: "dynamic_listeners",
        item: "listener",
        dynamic_message: "ListenersConfigDump.DynamicListener",
        type_url: type_url::LISTENER,
    },
    Section {
        message: "RoutesConfigDump",
        fixed: "static_route_configs",
        dynamic: "dynamic_route_configs",
        item: "route_config",
        dynamic_message: "RoutesConfigDump.DynamicRouteConfig",
        type_url: type_url::ROUTE,
    },
    Section {
        message: "SecretsConfigDump",
        fixed: "static_secrets",
        dynamic: "dynamic_active_secrets",
        item: "secret",
        dynamic_message: "SecretsConfigDump.DynamicSecret",
        type_url: type_url::SECRET,
    },
    Section {
        message: "EcdsConfigDump",
        fixed: "",
        dynamic: "ecds_filters",
        item: "ecds_filter",
        dynamic_message: "EcdsConfigDump.EcdsFilterConfig",
        type_url: type_url::EXTENSION_CONFIG,
    },
    Section {
        message: "EndpointsConfigDump",
        fixed: "static_endpoint_configs",
        dynamic: "dynamic_endpoint_configs",
        item: "endpoint_config",
        dynamic_message: "EndpointsConfigDump.DynamicEndpointConfig",
        type_url: type_url::ENDPOINTS,
    },
];

/// The dump that `query` asks for; `Err` says what is wrong with it.
pub(super) fn dump(admin: &Admin, query: &Query) -> Result<Value, (StatusCode, String)> {
    let bad = |reason| (StatusCode::BAD_REQUEST, reason);
    let name = match query.get("name_regex") {
        None => None,
        Some(pattern) => Some(Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
            bad(format!(
                "Error while parsing name_regex from {pattern}: {error}\n"
            ))
        })?),
    };
    let keep = |entries: BTreeMap<Arc<str>, Entry>| -> BTreeMap<Arc<str>, Entry> {
        let fits = |key: &str| name.as_ref().is_none_or(|name| name.is_match(key));
        entries.into_iter().filter(|(key, _)| fits(key)).collect()
    };
    if let Some(resource) = query.get("resource") {
        let mut configs = one_resource(admin, resource, keep)
            .map_err(|reason| (StatusCode::NOT_FOUND, reason))?;
        if let Some(mask) = query.get("mask") {
            let masked = configs.iter().map(|one| mask::apply(one, mask, &[]));
            let masked: Option<Vec<Value>> = masked.collect();
            configs = masked.ok_or_else(|| bad(unmasked(mask)))?;
        }
        return Ok(json!({ "configs": configs }));
    }
    let mut configs = vec![json!({
        "@type": format!("{DUMP}BootstrapConfigDump"),
        "bootstrap": bootstrap(admin),
        "last_updated": timestamp(admin.started),
    })];
    for section in &SECTIONS {
        if section.type_url == type_url::ENDPOINTS && !query.has("include_eds") {
            continue;
        }
        let mut config = whole(section, keep(admin.inventory.of(section.type_url)));
        let fits = |key: &str| name.as_ref().is_none_or(|name| name.is_match(key));
        let more = match section.type_url {
            type_url::ROUTE => inline_routes(admin, &fits),
            type_url::ENDPOINTS => clusters::static_endpoints(admin, &fits),
            _ => Vec::new(),
        };
        if let Some(fields) = config.as_object_mut().filter(|_| !more.is_empty()) {
            fields.insert(section.fixed.into(), more.into());
        }
        configs.push(config);
    }
    if let Some(mask) = query.get("mask") {
        let fields = SECTIONS
            .iter()
            .find(|section| mask.contains(section.dynamic));
        let known: Vec<&str> = fields
            .map(|one| vec![one.dynamic, one.fixed])
            .unwrap_or_default();
        let of = |one: &Value| {
            let message = fields.is_some_and(|section| {
                one.get("@type").and_then(Value::as_str)
                    == Some(&format!("{DUMP}{}", section.message))
            });
            mask::apply(one, mask, if message { &known } else { &[] })
        };
        configs = configs.iter().filter_map(of).collect();
        if configs.is_empty() {
            return Err(bad(unmasked(mask)));
        }
    }
    Ok(json!({ "configs": configs }))
}

/// The route tables that listeners hold themselves: static ones, whatever the listener came from.
fn inline_routes(admin: &Admin, fits: &dyn Fn(&str) -> bool) -> Vec<Value> {
    let mut out = Vec::new();
    for entry in admin.inventory.of(type_url::LISTENER).values() {
        if let Some(accepted) = &entry.accepted {
            let listener = resource(type_url::LISTENER, &accepted.body);
            routes_within(&listener, &timestamp(accepted.updated), &mut out);
        }
    }
    out.retain(|one| one["route_config"]["name"].as_str().is_none_or(fits));
    out
}

fn routes_within(value: &Value, updated: &str, out: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            let is_manager = fields.get("@type").and_then(Value::as_str) == Some(HCM);
            match fields.get("route_config").and_then(Value::as_object) {
                Some(table) if is_manager => {
                    let mut table = table.clone();
                    table.insert("@type".into(), type_url::ROUTE.into());
                    out.push(json!({ "route_config": table, "last_updated": updated }));
                }
                _ => fields
                    .values()
                    .for_each(|field| routes_within(field, updated, out)),
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| routes_within(item, updated, out)),
        _ => {}
    }
}

fn unmasked(mask: &str) -> String {
    format!("FieldMask {mask} could not be successfully applied to any configs.\n")
}

/// `?resource=dynamic_active_clusters` and the like: the entries of one field, without the rest.
fn one_resource(
    admin: &Admin,
    field: &str,
    keep: impl Fn(BTreeMap<Arc<str>, Entry>) -> BTreeMap<Arc<str>, Entry>,
) -> Result<Vec<Value>, String> {
    for section in &SECTIONS {
        let is_static = !field.is_empty() && field == section.fixed;
        if !is_static && field != section.dynamic {
            continue;
        }
        match section.type_url {
            type_url::ROUTE if is_static => return Ok(inline_routes(admin, &|_| true)),
            type_url::ENDPOINTS if is_static => {
                return Ok(clusters::static_endpoints(admin, &|_| true));
            }
            _ => {}
        }
        let entries = keep(admin.inventory.of(section.type_url));
        let wanted = entries
            .iter()
            .filter(|(_, entry)| entry.is_static == is_static);
        return Ok(wanted
            .map(|(name, entry)| {
                let mut value = item(section, name, entry);
                if let Some(fields) = value.as_object_mut() {
                    fields.insert(
                        "@type".into(),
                        format!("{DUMP}{}", section.dynamic_message).into(),
                    );
                }
                value
            })
            .collect());
    }
    match field {
        "bootstrap" => Ok(vec![bootstrap(admin)]),
        _ => Err(format!("{field} not found in config dump\n")),
    }
}

fn whole(section: &Section, entries: BTreeMap<Arc<str>, Entry>) -> Value {
    let mut fixed = Vec::new();
    let mut dynamic = Vec::new();
    let mut version = Arc::from("");
    for (name, entry) in &entries {
        if let Some(accepted) = &entry.accepted
            && !entry.is_static
        {
            version = Arc::clone(&accepted.version);
        }
        if entry.is_static {
            &mut fixed
        } else {
            &mut dynamic
        }
        .push(item(section, name, entry));
    }
    let mut out = Map::new();
    out.insert("@type".into(), format!("{DUMP}{}", section.message).into());
    if matches!(section.type_url, type_url::CLUSTER | type_url::LISTENER) && !version.is_empty() {
        out.insert("version_info".into(), (*version).into());
    }
    if !fixed.is_empty() {
        out.insert(section.fixed.into(), fixed.into());
    }
    if !dynamic.is_empty() {
        out.insert(section.dynamic.into(), dynamic.into());
    }
    Value::Object(out)
}

/// One entry. Listeners and secrets carry their name beside; a listener's version sits in `active_state`.
fn item(section: &Section, name: &str, entry: &Entry) -> Value {
    let mut state = Map::new();
    if let Some(accepted) = &entry.accepted {
        if !accepted.version.is_empty() {
            state.insert("version_info".into(), (*accepted.version).into());
        }
        state.insert(
            section.item.into(),
            resource(section.type_url, &accepted.body),
        );
        // Envoy does not tell when the secrets of its bootstrap were read.
        if !(entry.is_static && section.type_url == type_url::SECRET) {
            state.insert("last_updated".into(), timestamp(accepted.updated).into());
        }
    }
    let mut out = if section.type_url == type_url::LISTENER && !entry.is_static {
        let mut out = Map::from_iter([("name".to_owned(), Value::from(name))]);
        if entry.accepted.is_some() {
            out.insert("active_state".into(), Value::Object(state));
        }
        out
    } else {
        if section.type_url == type_url::SECRET {
            state.insert("name".into(), name.into());
            // One that has never been good has a name only, as one that Envoy still waits for.
            let bare = || json!({ "@type": type_url::SECRET, "name": name });
            state.entry("secret").or_insert_with(bare);
        }
        state
    };
    if let Some(refused) = &entry.refused {
        out.insert(
            "error_state".into(),
            json!({
                "failed_configuration": resource(section.type_url, &refused.body),
                "last_update_attempt": timestamp(refused.at),
                "details": refused.reason,
                "version_info": &*refused.version,
            }),
        );
    }
    Value::Object(out)
}

fn bootstrap(admin: &Admin) -> Value {
    let mut value = proto_json::print_encoded::<Bootstrap>(&admin.bootstrap);
    redact(&mut value);
    value
}

fn resource(url: &str, body: &[u8]) -> Value {
    let mut value = proto_json::print_bytes(url, body);
    redact(&mut value);
    value
}

/// Private keys and passwords never leave the process.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "private_key" | "password" | "session_ticket_keys" | "generic_secret" => {
                        hide(field)
                    }
                    _ => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &*field) {
                    // A map's key may have that name, too; what is below it is hidden.
                    ("filename" | "environment_variable", Value::String(_)) => {}
                    ("inline_string", Value::String(_)) => *field = "[redacted]".into(),
                    (_, Value::String(_)) => *field = REDACTED.into(),
                    _ => hide(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::redact;
    use serde_json::json;

    #[test]
    fn keys_are_hidden_and_their_places_are_not() {
        let mut dump = json!({ "tls_certificate": {
            "certificate_chain": { "inline_bytes": "Y2hhaW4=" },
            "private_key": { "inline_bytes": "a2V5" },
        }, "other": [ { "private_key": { "filename": "/key.pem" } }, { "private_key": { "inline_string": "key" } } ] });
        redact(&mut dump);
        assert_eq!(
            dump,
            json!({ "tls_certificate": {
            "certificate_chain": { "inline_bytes": "Y2hhaW4=" },
            "private_key": { "inline_bytes": "W3JlZGFjdGVkXQ==" },
        }, "other": [ { "private_key": { "filename": "/key.pem" } }, { "private_key": { "inline_string": "[redacted]" } } ] })
        );
    }
}
