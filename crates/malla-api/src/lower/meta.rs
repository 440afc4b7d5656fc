//! Metadata, visibility and the small values every kind has.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::id::Labels;
use malla_model::service::Visibility;
use malla_model::{Meta, ObjectRef};

use crate::kind::Kind;

/// Names an object of one of Istio's kinds.
#[must_use]
pub fn object_ref(kind: Kind, metadata: &ObjectMeta) -> ObjectRef {
    reference(kind.name(), metadata)
}

/// Names an object of any kind. Without a namespace it is of `default`, as `kubectl` has it.
#[must_use]
pub fn reference(kind: &'static str, metadata: &ObjectMeta) -> ObjectRef {
    ObjectRef::new(
        kind,
        metadata.namespace.as_deref().unwrap_or("default"),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

/// The model's metadata of an object of any kind.
#[must_use]
pub fn meta(kind: &'static str, metadata: &ObjectMeta) -> Meta {
    Meta {
        object: reference(kind, metadata),
        created: metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        generation: metadata.generation.unwrap_or(0),
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
    }
}

/// Reads `exportTo`, or where it says nothing the mesh's `defaults`; nothing at all is everybody.
#[must_use]
pub fn visibility_or<'a>(
    export_to: impl IntoIterator<Item = &'a str>,
    defaults: &[Arc<str>],
    namespace: &str,
) -> Visibility {
    let mut own = export_to
        .into_iter()
        .filter(|name| !name.trim().is_empty())
        .peekable();
    match own.peek() {
        Some(_) => visibility(own, namespace),
        None => visibility(defaults.iter().map(|name| &**name), namespace),
    }
}

/// Reads `exportTo`; nothing at all is everybody (Istio's default).
#[must_use]
pub fn visibility<'a>(export_to: impl IntoIterator<Item = &'a str>, namespace: &str) -> Visibility {
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut nobody = false;
    for name in export_to {
        match name.trim() {
            "*" => return Visibility::Public,
            "~" => nobody = true,
            "." => {
                names.insert(namespace.into());
            }
            "" => {}
            name => {
                names.insert(name.into());
            }
        }
    }
    match (names.is_empty(), nobody) {
        (false, _) => Visibility::Namespaces(names),
        (true, true) => Visibility::Nobody,
        (true, false) => Visibility::Public,
    }
}

/// An IP address or CIDR block; a bare address is a block of one.
#[must_use]
pub fn ip_block(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A port number, 1 to 65535.
#[must_use]
pub fn port(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// Shared texts.
pub(crate) fn texts(list: &[String]) -> Vec<Arc<str>> {
    list.iter().map(|text| Arc::from(text.as_str())).collect()
}

/// An optional text; an empty one is absent, as in protobuf.
pub(crate) fn text(value: &Option<String>) -> Option<Arc<str>> {
    value
        .as_deref()
        .filter(|text| !text.is_empty())
        .map(Arc::from)
}

/// Labels that select; none at all selects like an absent selector.
pub(crate) fn selector(labels: Option<&Labels>) -> Option<Labels> {
    labels.filter(|labels| !labels.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_reads_as_istio_reads_it() {
        let names = |list: &[&str]| {
            Visibility::Namespaces(list.iter().map(|name| Arc::from(*name)).collect())
        };
        for (list, want) in [
            (vec![], Visibility::Public),
            (vec!["*"], Visibility::Public),
            (vec![".", "*"], Visibility::Public),
            (vec!["."], names(&["base"])),
            (vec![".", "test"], names(&["base", "test"])),
            (vec!["~"], Visibility::Nobody),
        ] {
            assert_eq!(visibility(list.iter().copied(), "base"), want, "{list:?}");
        }
    }

    #[test]
    fn a_bare_address_is_a_block_of_one() {
        assert_eq!(
            ip_block("10.0.0.1").map(|net| net.to_string()),
            Some("10.0.0.1/32".into())
        );
        assert_eq!(
            ip_block("10.0.0.0/8").map(|net| net.to_string()),
            Some("10.0.0.0/8".into())
        );
        assert_eq!(ip_block("nonsense"), None);
    }
}
