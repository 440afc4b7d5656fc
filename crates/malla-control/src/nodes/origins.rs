//! Which of Istio's objects resources were made of: routes and clusters name theirs in their metadata
//! (`filter_metadata.istio.config`, where `istioctl` reads it, too).

use std::collections::{BTreeMap, BTreeSet};

use malla_xds::{Name, ResourceMap};

/// How paths of objects begin.
const PATH: &[u8] = b"/apis/networking.istio.io/";
/// Longest path: group, version, namespace, kind and name.
const LONGEST: usize = 700;

/// Objects by the paths they have in metadata, without their version:
/// `namespaces/base/virtual-service/order`.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    all: BTreeSet<String>,
    by_resource: BTreeMap<Name, BTreeSet<String>>,
}

impl Origins {
    pub(super) fn of(resources: &ResourceMap) -> Self {
        let mut origins = Self::default();
        for (name, resource) in resources {
            let found: BTreeSet<String> = paths(&resource.body).collect();
            if !found.is_empty() {
                origins.all.extend(found.iter().cloned());
                origins.by_resource.insert(name.clone(), found);
            }
        }
        origins
    }

    /// Whether any resource was made of the object.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.all.contains(path)
    }

    /// The objects of one resource; `None` where it names none.
    pub(crate) fn of_resource(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.by_resource.get(name)
    }
}

/// Paths in an encoded message: texts are in it as they are.
fn paths(body: &[u8]) -> impl Iterator<Item = String> {
    let starts = body.windows(PATH.len()).enumerate();
    let starts = starts.filter(|(_, window)| *window == PATH);
    starts.filter_map(|(at, _)| {
        let rest = body.get(at.saturating_add(PATH.len())..)?;
        let path: Vec<u8> = rest
            .iter()
            .copied()
            .take(LONGEST)
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"-./".contains(byte))
            .collect();
        let path = String::from_utf8(path).ok()?;
        let (_version, path) = path.split_once('/')?;
        Some(path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use malla_xds::Resource;
    use malla_xds_proto::{any, cluster::Cluster, core::Metadata, wkt};

    use super::*;

    #[test]
    fn objects_are_found_in_encoded_resources() {
        let cluster = |name: &str, path: &str| {
            let istio = wkt::structure([("config", wkt::string(path))]);
            let metadata = Metadata {
                filter_metadata: [("istio".to_owned(), istio)].into(),
                ..Metadata::default()
            };
            let cluster = Cluster {
                name: name.to_owned(),
                metadata: Some(metadata),
                ..Cluster::default()
            };
            (
                Name::from(name),
                Resource::hashed(any::encode(&cluster).into()),
            )
        };
        let order = "/apis/networking.istio.io/v1/namespaces/base/destination-rule/order.v1";
        let map: ResourceMap = [cluster("a", order), cluster("b", "")].into();
        let origins = Origins::of(&map);
        let path = "namespaces/base/destination-rule/order.v1";
        assert!(
            origins.contains(path) && !origins.contains("namespaces/base/destination-rule/order")
        );
        let of = |name| origins.of_resource(name);
        assert!(of("a").is_some_and(|found| found.contains(path)));
        assert!(of("b").is_none());
    }
}
