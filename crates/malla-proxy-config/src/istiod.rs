//! What a real istiod sends is taken (`tests/istiod`, where it was recorded and which records it anew).
//!
//! Fields that have no effect here are listed: a new one is looked at before it is ignored.

use std::collections::BTreeSet;

use malla_xds_proto::{any, json, type_url};
use serde_json::Value;

use crate::checked::{Checked, Invalid};
use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::route::RouteConfig;

const RECORDED: &str = include_str!("../../../tests/istiod/recorded.json");

/// The last part of what is ignored, of all resources.
const NO_EFFECT: [&str; 9] = [
    "emit_filter_state: has no effect in this proxy",
    "filter_state_objects_to_log: has no effect in this proxy",
    "initial_read_buffer_size: has no effect in this proxy",
    "json_format_options: has no effect in this proxy",
    "max_connections_to_accept_per_socket_event: has no effect in this proxy",
    "metadata: has no effect in this proxy",
    "trace_sampled: has no effect in this proxy",
    "typed_config: answers are not compressed by this proxy",
    "typed_config: what MongoDB's clients ask for is not counted",
];

fn warnings(resource: Value) -> Result<Vec<String>, Invalid> {
    fn told<T>(checked: Checked<T>) -> Vec<String> {
        let warnings = checked.warnings.iter();
        warnings.map(ToString::to_string).collect()
    }
    let any = json::any_from_value(resource).unwrap();
    match any.type_url.as_str() {
        type_url::CLUSTER => Cluster::from_proto(any::unpack(&any).unwrap()).map(told),
        type_url::LISTENER => Listener::from_proto(any::unpack(&any).unwrap()).map(told),
        type_url::ROUTE => RouteConfig::from_proto(any::unpack(&any).unwrap()).map(told),
        other => panic!("{other} was not recorded"),
    }
}

#[test]
fn nothing_that_istiod_sends_is_refused() {
    let resources: Vec<Value> = serde_json::from_str(RECORDED).unwrap();
    assert!(resources.len() > 100);
    let mut refused = Vec::new();
    let mut ignored = BTreeSet::new();
    for resource in resources {
        let name = resource["name"].clone();
        match warnings(resource) {
            Ok(warnings) => ignored.extend(warnings.into_iter().map(|warning| {
                let (path, reason) = warning.split_once(": ").unwrap_or(("", &warning));
                let field = path.rsplit('.').next().unwrap_or(path);
                format!("{field}: {reason}")
            })),
            Err(invalid) => refused.push(format!("{name}: {invalid}")),
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    let known: BTreeSet<String> = NO_EFFECT.iter().map(|&text| text.to_owned()).collect();
    let new: Vec<&String> = ignored.difference(&known).collect();
    assert!(new.is_empty(), "newly ignored: {new:#?}");
}
