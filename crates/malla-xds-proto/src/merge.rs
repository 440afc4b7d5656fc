//! Merging messages as Istio's EnvoyFilters do: as protobuf merges, but for durations, which are replaced whole.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value};

use crate::Any;
use crate::canonical::sort_maps;
use crate::json::{any_from_value, pool, print_any};
use crate::type_url::message_name;
use crate::typed_struct::{UdpaTypedStruct, XdsTypedStruct};

/// A message may nest that deep; deeper parts are replaced.
const MAX_DEPTH: usize = 64;
const DURATION: &str = "google.protobuf.Duration";

/// What becomes of lists that both messages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// The patch's items follow the target's.
    Append,
    Replace,
}

/// Why two messages do not merge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("a {patch} cannot be merged into a {target}")]
    OtherType { target: String, patch: String },
    #[error("{0} is not known here, or is damaged")]
    Unreadable(String),
}

/// Merges `patch` into `target`: fields that the patch sets win, messages are merged, maps by key.
///
/// # Errors
/// When the descriptors lack the type; it is one of this crate's, so that does not happen.
pub fn merge<M: Message + Name + Default>(
    target: &mut M,
    patch: &M,
    lists: Lists,
) -> Result<(), MergeError> {
    let name = M::full_name();
    let merged = merged(
        &name,
        &target.encode_to_vec(),
        &patch.encode_to_vec(),
        lists,
    )?;
    *target = M::decode(&*merged).map_err(|_| MergeError::Unreadable(name))?;
    Ok(())
}

/// Merges packed messages of one type. A `TypedStruct` is taken for the message it describes.
///
/// # Errors
/// When the types differ, or one is unknown.
pub fn merge_any(target: &Any, patch: &Any) -> Result<Any, MergeError> {
    let target = described(target)?;
    let patch = described(patch)?;
    let name = message_name(&target.type_url);
    if name != message_name(&patch.type_url) {
        return Err(MergeError::OtherType {
            target: name.to_owned(),
            patch: message_name(&patch.type_url).to_owned(),
        });
    }
    let mut value = merged(name, &target.value, &patch.value, Lists::Append)?;
    sort_maps(name, &mut value);
    Ok(Any {
        value,
        type_url: target.type_url,
    })
}

/// The message a `TypedStruct` is the JSON of; others are themselves.
fn described(any: &Any) -> Result<Any, MergeError> {
    let name = message_name(&any.type_url);
    if name != UdpaTypedStruct::full_name() && name != XdsTypedStruct::full_name() {
        return Ok(any.clone());
    }
    let unreadable = || MergeError::Unreadable(name.to_owned());
    let mut printed = print_any(any);
    let inner = printed.get("type_url").cloned().ok_or_else(unreadable)?;
    let value = printed.get_mut("value").map(serde_json::Value::take);
    let mut value = value.unwrap_or_else(|| serde_json::json!({}));
    let fields = value.as_object_mut().ok_or_else(unreadable)?;
    fields.insert("@type".into(), inner);
    any_from_value(value).map_err(|_| unreadable())
}

fn merged(name: &str, target: &[u8], patch: &[u8], lists: Lists) -> Result<Vec<u8>, MergeError> {
    let unreadable = || MergeError::Unreadable(name.to_owned());
    let descriptor: MessageDescriptor = pool().get_message_by_name(name).ok_or_else(unreadable)?;
    let read =
        |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).map_err(|_| unreadable());
    let mut target = read(target)?;
    merge_message(&mut target, &read(patch)?, lists, MAX_DEPTH);
    Ok(target.encode_to_vec())
}

fn merge_message(target: &mut DynamicMessage, patch: &DynamicMessage, lists: Lists, depth: usize) {
    for (field, value) in patch.fields() {
        match value {
            Value::List(items) if lists == Lists::Append => {
                if let Some(list) = target.get_field_mut(&field).as_list_mut() {
                    list.extend(items.iter().cloned());
                }
            }
            Value::Map(entries) => {
                if let Some(map) = target.get_field_mut(&field).as_map_mut() {
                    map.extend(
                        entries
                            .iter()
                            .map(|(key, value)| (key.clone(), value.clone())),
                    );
                }
            }
            Value::Message(inner) if depth > 0 && inner.descriptor().full_name() != DURATION => {
                // Another choice of the same set goes first: a field's mutable form would keep both.
                if !target.has_field(&field) {
                    target.set_field(&field, value.clone());
                } else if let Some(there) = target.get_field_mut(&field).as_message_mut() {
                    merge_message(there, inner, lists, depth - 1);
                }
            }
            other => target.set_field(&field, other.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Lists, merge, merge_any};
    use crate::cluster::Cluster;
    use crate::json::{any_from_value, from_value, print, print_any};
    use crate::route::Route;

    fn merged<M: prost::Message + prost::Name + Default>(
        target: &Value,
        patch: &Value,
        lists: Lists,
    ) -> Value {
        let mut target: M = from_value(target.clone()).unwrap();
        merge(&mut target, &from_value(patch.clone()).unwrap(), lists).unwrap();
        print(&target)
    }

    #[test]
    fn fields_merge_lists_grow_durations_are_replaced() {
        let target = json!({
            "name": "a", "connect_timeout": "1.5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 7}]},
            "metadata": {"filter_metadata": {"x": {"a": 1.0}, "y": {"b": 1.0}}},
        });
        let patch = json!({
            "connect_timeout": "3s", "lb_policy": "RANDOM",
            "circuit_breakers": {"thresholds": [{"max_retries": 2}]},
            "metadata": {"filter_metadata": {"x": {"c": 2.0}}},
        });
        let mut want = json!({
            "name": "a", "connect_timeout": "3s", "lb_policy": "RANDOM",
            "circuit_breakers": {"thresholds": [{"max_connections": 7}, {"max_retries": 2}]},
            "metadata": {"filter_metadata": {"x": {"c": 2.0}, "y": {"b": 1.0}}},
        });
        assert_eq!(merged::<Cluster>(&target, &patch, Lists::Append), want);
        want["circuit_breakers"] = json!({"thresholds": [{"max_retries": 2}]});
        assert_eq!(merged::<Cluster>(&target, &patch, Lists::Replace), want);
    }

    #[test]
    fn another_choice_takes_the_place_of_the_first() {
        let target = json!({"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": "1s"}});
        let patch = json!({"direct_response": {"status": 204}});
        let want = json!({"match": {"prefix": "/"}, "direct_response": {"status": 204}});
        assert_eq!(merged::<Route>(&target, &patch, Lists::Append), want);
        let patch = json!({"route": {"prefix_rewrite": "/x"}});
        let want = json!({"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": "1s", "prefix_rewrite": "/x"}});
        assert_eq!(merged::<Route>(&target, &patch, Lists::Append), want);
    }

    #[test]
    fn packed_messages_merge_by_their_type() {
        let url = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let any = |value: Value| any_from_value(value).unwrap();
        let target = any(json!({"@type": url, "suppress_envoy_headers": true}));
        let plain = any(json!({"@type": url, "dynamic_stats": false}));
        let want = json!({"@type": url, "suppress_envoy_headers": true, "dynamic_stats": false});
        assert_eq!(print_any(&merge_any(&target, &plain).unwrap()), want);
        let described = any(json!({
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": url, "value": {"dynamic_stats": false},
        }));
        assert_eq!(print_any(&merge_any(&target, &described).unwrap()), want);
        let cors = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
        let other = merge_any(&target, &any(json!({"@type": cors})));
        assert!(other.unwrap_err().to_string().contains("Cors"));
    }
}
