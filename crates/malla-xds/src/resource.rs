//! Resources as the protocol sees them: a type, a name, a version and bytes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::order;

/// `type.googleapis.com/envoy.config.cluster.v3.Cluster` and the like; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeUrl(Arc<str>);

impl TypeUrl {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for TypeUrl {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Deref for TypeUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TypeUrl {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A resource's name, unique within its type.
pub type Name = Arc<str>;

/// Equal versions mean equal bytes. An opaque text; ours are content hashes.
pub type Version = Arc<str>;

/// One resource. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub version: Version,
    /// The encoded message, without its `Any`.
    pub body: Bytes,
}

impl Resource {
    /// A resource whose version is its content's hash.
    #[must_use]
    pub fn hashed(body: Bytes) -> Self {
        Self {
            version: content_version(&body),
            body,
        }
    }
}

/// The version of these bytes: 128 bits of XXH3, in hexadecimal.
#[must_use]
pub fn content_version(body: &[u8]) -> Version {
    format!("{:032x}", xxh3_128(body)).into()
}

/// One version for many resources: equal when names and versions are, in whatever order. It follows
/// additions and removals without looking at the others again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aggregate(u64);

impl Aggregate {
    pub fn add(&mut self, name: &str, version: &str) {
        self.0 = self.0.wrapping_add(Self::of(name, version));
    }

    /// Takes back what was added.
    pub fn remove(&mut self, name: &str, version: &str) {
        self.0 = self.0.wrapping_sub(Self::of(name, version));
    }

    #[must_use]
    pub fn version(self) -> Version {
        format!("{:016x}", self.0).into()
    }

    fn of(name: &str, version: &str) -> u64 {
        let mut hash = Xxh3::new();
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        for text in [name, version] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.digest()
    }
}

/// The [`Aggregate`] of names and versions.
#[must_use]
pub fn aggregate_version<'a>(resources: impl Iterator<Item = (&'a str, &'a str)>) -> Version {
    let mut aggregate = Aggregate::default();
    resources.for_each(|(name, version)| aggregate.add(name, version));
    aggregate.version()
}

/// Resources of one type by name.
pub type ResourceMap = BTreeMap<Name, Resource>;

/// Resources of one type, in maps that many nodes may share. Where two have a name, the first counts.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a>(&'a [Arc<ResourceMap>]);

impl<'a> Layers<'a> {
    #[must_use]
    pub const fn new(maps: &'a [Arc<ResourceMap>]) -> Self {
        Self(maps)
    }

    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a Resource> {
        self.0.iter().find_map(|map| map.get(name))
    }

    #[must_use]
    pub fn contains(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Every name once, with its resource; sorted within each map.
    pub fn iter(self) -> impl Iterator<Item = (&'a Name, &'a Resource)> + use<'a> {
        self.0.iter().enumerate().flat_map(move |(at, map)| {
            let before = self.0.get(..at).unwrap_or_default();
            map.iter()
                .filter(move |(name, _)| !before.iter().any(|map| map.contains_key(*name)))
        })
    }
}

/// Everything one node may be sent, at one moment. Immutable; a change is a new value.
pub trait NodeResources: Send + Sync {
    /// Names the moment, for events and debugging; never interpreted.
    fn version(&self) -> &str;

    /// What a wildcard subscription to the type gets; `None` for types that have none, such as those
    /// that are only ever asked for by name.
    fn wildcard(&self, type_url: &str) -> Option<Layers<'_>>;

    /// One resource by name, among them those of [`NodeResources::wildcard`]. May be computed now,
    /// without blocking; equal content must have an equal version.
    fn get(&self, type_url: &str, name: &str) -> Option<Resource>;

    /// Changes whenever anything of the type may have changed. Equal values let a stream skip the
    /// comparison name by name; `None` never does.
    fn revision(&self, type_url: &str) -> Option<u64> {
        let _ = type_url;
        None
    }

    /// Names of the type whose resources may be others than at an earlier [`NodeResources::revision`], so that
    /// a stream need not look at the rest. `None` where that is not known any more.
    fn changed(&self, type_url: &str, since: u64) -> Option<Vec<Name>> {
        let _ = (type_url, since);
        None
    }

    /// The name as the resources themselves hold it: a stream that keeps it needs no memory for its text.
    fn shared_name(&self, type_url: &str, name: &str) -> Option<Name> {
        let _ = (type_url, name);
        None
    }

    /// Resources that a client waits for anew after `name` has changed. Envoy "warms" a changed
    /// cluster until it is sent its endpoints again, even if they have not changed.
    fn warms(&self, type_url: &str, name: &str) -> Vec<(TypeUrl, Name)> {
        order::warms(type_url)
            .map(|child| (child.into(), name.into()))
            .into_iter()
            .collect()
    }
}

/// Resources held in maps: the straightforward [`NodeResources`].
#[derive(Debug, Clone, Default)]
pub struct ResourceSet {
    version: String,
    types: BTreeMap<TypeUrl, Arc<ResourceMap>>,
}

impl ResourceSet {
    #[must_use]
    pub fn new(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            types: BTreeMap::new(),
        }
    }

    /// Replaces the resources of a type; untouched types are shared with the set this one was
    /// cloned from.
    pub fn set(&mut self, type_url: impl Into<TypeUrl>, resources: impl Into<Arc<ResourceMap>>) {
        self.types.insert(type_url.into(), resources.into());
    }

    /// Adds or replaces one resource, its version being its content's hash.
    pub fn put(&mut self, type_url: impl Into<TypeUrl>, name: &str, body: impl Into<Bytes>) {
        let resources = self.types.entry(type_url.into()).or_default();
        Arc::make_mut(resources).insert(name.into(), Resource::hashed(body.into()));
    }

    /// Removes one resource.
    pub fn remove(&mut self, type_url: &str, name: &str) {
        if let Some(resources) = self.types.get_mut(type_url) {
            Arc::make_mut(resources).remove(name);
        }
    }

    pub fn set_version(&mut self, version: &str) {
        version.clone_into(&mut self.version);
    }
}

impl NodeResources for ResourceSet {
    fn version(&self) -> &str {
        &self.version
    }

    fn wildcard(&self, type_url: &str) -> Option<Layers<'_>> {
        let map = self.types.get(type_url)?;
        Some(Layers::new(std::slice::from_ref(map)))
    }

    fn get(&self, type_url: &str, name: &str) -> Option<Resource> {
        self.types.get(type_url)?.get(name).cloned()
    }
}

/// The name of an encoded resource whose transport does not carry it (SotW). Every xDS resource
/// type keeps its name in field 1, which protobuf writers put first.
#[must_use]
pub fn embedded_name(body: &[u8]) -> Option<&str> {
    const FIELD_1_TEXT: u8 = 1 << 3 | 2;
    let (tag, rest) = body.split_first()?;
    if *tag != FIELD_1_TEXT {
        return None;
    }
    let (length, rest) = varint(rest)?;
    let text = rest.get(..usize::try_from(length).ok()?)?;
    std::str::from_utf8(text)
        .ok()
        .filter(|name| !name.is_empty())
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use malla_xds_proto::{any, cluster::Cluster, endpoint::ClusterLoadAssignment};
    use proptest::prelude::{any as anything, proptest};

    #[test]
    fn names_are_found_in_the_bytes() {
        let name = "outbound|80||cart.base.svc.cluster.local".repeat(9);
        let cluster = Cluster {
            name: name.clone(),
            alt_stat_name: "other".into(),
            ..Cluster::default()
        };
        assert_eq!(embedded_name(&any::encode(&cluster)), Some(&*name));
        let endpoints = ClusterLoadAssignment {
            cluster_name: "cart".into(),
            ..ClusterLoadAssignment::default()
        };
        assert_eq!(embedded_name(&any::encode(&endpoints)), Some("cart"));
        assert_eq!(embedded_name(&any::encode(&Cluster::default())), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(body in anything::<Vec<u8>>()) {
            let _ = embedded_name(&body);
        }
    }

    #[test]
    fn versions_are_of_the_content() {
        let one = Resource::hashed(Bytes::from_static(b"one"));
        assert_eq!(one.version, content_version(b"one"));
        assert_ne!(one.version, content_version(b"two"));
        let pairs = |pairs: &'static [(&str, &str)]| aggregate_version(pairs.iter().copied());
        assert_ne!(pairs(&[("ab", "c")]), pairs(&[("a", "bc")]));
        assert_eq!(pairs(&[]), pairs(&[]));
        let mut followed = Aggregate::default();
        for (name, version) in [("b", "1"), ("c", "1"), ("a", "1")] {
            followed.add(name, version);
        }
        followed.remove("c", "1");
        assert_eq!(followed.version(), pairs(&[("a", "1"), ("b", "1")]));
    }

    #[test]
    fn the_first_layer_that_has_a_name_counts() {
        let layer = |names: &[&str], body: &'static [u8]| {
            let resource = || Resource::hashed(Bytes::from_static(body));
            let map = names.iter().map(|name| (Name::from(*name), resource()));
            Arc::new(map.collect::<ResourceMap>())
        };
        let maps = [layer(&["a", "c"], b"own"), layer(&["b", "c"], b"shared")];
        let layers = Layers::new(&maps);
        let all = layers.iter().map(|(name, it)| (&**name, &*it.body));
        let want: [(&str, &[u8]); 3] = [("a", b"own"), ("c", b"own"), ("b", b"shared")];
        assert!(all.eq(want));
        assert!(layers.contains("b") && !layers.contains("d"));
    }
}
