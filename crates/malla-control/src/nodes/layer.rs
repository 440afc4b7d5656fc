//! Resources of one type that are made once and shared: by proxies, and by worlds in which they are the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use malla_translate::Resource as Made;
use malla_xds::{Layers, Name, Resource, ResourceMap};
use malla_xds_proto::type_url;

use super::origins::Origins;

/// Revisions back from which a stream is told what changed; from further back it compares everything.
const REMEMBERED: usize = 16;

/// Unique in this process.
fn next_revision() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// Resources of one type. Immutable; equal revisions are equal resources.
#[derive(Debug)]
pub(super) struct Layer {
    revision: u64,
    map: Arc<ResourceMap>,
    /// The revision it came after, and the names at which it differs from that.
    changed: Option<(u64, Arc<[Name]>)>,
    origins: OnceLock<Origins>,
}

impl Layer {
    fn new(map: ResourceMap, changed: Option<(u64, Arc<[Name]>)>) -> Arc<Self> {
        Arc::new(Self {
            revision: next_revision(),
            map: Arc::new(map),
            changed,
            origins: OnceLock::new(),
        })
    }

    /// These resources. What is the same as in `before` is shared with it; if all is, it is `before`.
    pub(super) fn of(made: Vec<Made>, before: Option<&Arc<Self>>) -> Arc<Self> {
        let Some(before) = before else {
            let map = made.into_iter().map(|made| (made.name.clone(), sent(made)));
            return Self::new(map.collect(), None);
        };
        let mut changed = Vec::new();
        let mut map = ResourceMap::new();
        for made in made {
            let known = before.map.get_key_value(&made.name);
            match known.filter(|(_, known)| known.version == made.version) {
                Some((name, known)) => drop(map.insert(name.clone(), known.clone())),
                None => {
                    changed.push(made.name.clone());
                    map.insert(made.name.clone(), sent(made));
                }
            }
        }
        let gone = before.map.keys().filter(|name| !map.contains_key(*name));
        changed.extend(gone.cloned());
        before.followed_by(map, changed)
    }

    /// This, with some resources replaced or added.
    pub(super) fn with(self: &Arc<Self>, made: Vec<Made>) -> Arc<Self> {
        let differs = |made: &Made| {
            let known = self.map.get(&made.name);
            known.is_none_or(|known| known.version != made.version)
        };
        let made: Vec<Made> = made.into_iter().filter(differs).collect();
        if made.is_empty() {
            return Arc::clone(self);
        }
        let changed = made.iter().map(|made| made.name.clone()).collect();
        let mut map = (*self.map).clone();
        map.extend(made.into_iter().map(|made| (made.name.clone(), sent(made))));
        self.followed_by(map, changed)
    }

    fn followed_by(self: &Arc<Self>, map: ResourceMap, changed: Vec<Name>) -> Arc<Self> {
        if changed.is_empty() {
            return Arc::clone(self);
        }
        Self::new(map, Some((self.revision, changed.into())))
    }

    /// Which objects the resources were made of, as far as these say so.
    fn origins(&self) -> &Origins {
        self.origins.get_or_init(|| Origins::of(&self.map))
    }
}

fn sent(made: Made) -> Resource {
    Resource {
        version: made.version,
        body: Bytes::from(Arc::unwrap_or_clone(made.body).value),
    }
}

/// Names at which one revision differs from the one before.
type Changed = Vec<Arc<[Name]>>;

/// What one proxy is sent of one type: its own, and what it has in common with others.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    layers: Vec<Arc<Layer>>,
    maps: Vec<Arc<ResourceMap>>,
    revision: u64,
    /// Earlier revisions, oldest first, and what changed after each.
    history: VecDeque<(u64, Changed)>,
}

impl Stack {
    /// Of several layers that have a name, the first counts.
    pub(super) fn new(layers: Vec<Arc<Layer>>) -> Self {
        Self {
            maps: layers.iter().map(|layer| Arc::clone(&layer.map)).collect(),
            layers,
            revision: next_revision(),
            history: VecDeque::new(),
        }
    }

    /// These layers in the place of those before.
    pub(super) fn followed_by(&self, layers: Vec<Arc<Layer>>) -> Self {
        let pairs = || self.layers.iter().zip(&layers);
        if self.layers.len() == layers.len() && pairs().all(|(old, new)| Arc::ptr_eq(old, new)) {
            return self.clone();
        }
        let mut changed = Some(Changed::new()).filter(|_| self.layers.len() == layers.len());
        for (old, new) in pairs().filter(|(old, new)| !Arc::ptr_eq(old, new)) {
            let since = new.changed.as_ref();
            let since = since.filter(|(before, _)| *before == old.revision);
            changed = changed.zip(since).map(|(mut changed, (_, names))| {
                changed.push(Arc::clone(names));
                changed
            });
        }
        let mut next = Self::new(layers);
        if let Some(changed) = changed {
            next.history = self.history.clone();
            next.history.push_back((self.revision, changed));
            if next.history.len() > REMEMBERED {
                next.history.pop_front();
            }
        }
        next
    }

    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Names that may differ from those at an earlier revision; `None` where that is forgotten.
    pub(super) fn changed(&self, since: u64) -> Option<Vec<Name>> {
        if since == self.revision {
            return Some(Vec::new());
        }
        let at = self.history.iter().position(|(known, _)| *known == since)?;
        let later = self
            .history
            .iter()
            .skip(at)
            .flat_map(|(_, changed)| changed);
        Some(later.flat_map(|names| names.iter().cloned()).collect())
    }

    pub(super) fn resources(&self) -> Layers<'_> {
        Layers::new(&self.maps)
    }

    /// The name as the resources have it.
    pub(super) fn shared_name(&self, name: &str) -> Option<Name> {
        let found = self.maps.iter().find_map(|map| map.get_key_value(name));
        found.map(|(name, _)| name.clone())
    }
}

/// A proxy's resources by type.
#[derive(Debug, Default)]
pub(super) struct Stacks(BTreeMap<&'static str, Stack>);

impl Stacks {
    pub(super) fn get(&self, type_url: &str) -> Option<&Stack> {
        self.0.get(type_url)
    }

    /// Puts a type's layers there, after those of `before`.
    pub(super) fn put(
        &mut self,
        type_url: &'static str,
        layers: Vec<Arc<Layer>>,
        before: Option<&Self>,
    ) {
        let stack = match before.and_then(|before| before.get(type_url)) {
            Some(before) => before.followed_by(layers),
            None => Stack::new(layers),
        };
        self.0.insert(type_url, stack);
    }

    /// What objects resources of all types but endpoints, which name none, were made of.
    pub(super) fn origins(&self) -> impl Iterator<Item = &Origins> {
        let naming = self
            .0
            .iter()
            .filter(|(url, _)| **url != type_url::ENDPOINTS);
        naming.flat_map(|(_, stack)| stack.layers.iter().map(|layer| layer.origins()))
    }

    /// The same of one type.
    pub(super) fn origins_of(&self, type_url: &str) -> impl Iterator<Item = &Origins> {
        let stack = self.get(type_url);
        stack
            .into_iter()
            .flat_map(|stack| stack.layers.iter().map(|layer| layer.origins()))
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::cluster::Cluster;

    use super::*;

    fn made(name: &str, stat: &str) -> Made {
        let cluster = Cluster {
            name: name.to_owned(),
            alt_stat_name: stat.to_owned(),
            ..Cluster::default()
        };
        Made::new(name, &cluster)
    }

    fn texts(names: Option<Vec<Name>>) -> Option<Vec<String>> {
        Some(names?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_same_resources_are_the_same_layer() {
        let first = Layer::of(vec![made("a", "1"), made("b", "1")], None);
        let same = Layer::of(vec![made("a", "1"), made("b", "1")], Some(&first));
        assert!(Arc::ptr_eq(&first, &same));
        assert!(Arc::ptr_eq(&first, &first.with(vec![made("b", "1")])));
        let other = Layer::of(vec![made("a", "1"), made("c", "1")], Some(&first));
        let body = |layer: &Layer| layer.map.get("a").map(|it| it.body.as_ptr());
        assert_eq!(body(&first), body(&other), "bytes are shared");
    }

    #[test]
    fn a_stack_knows_what_changed_since_some_revisions() {
        let own = Layer::of(vec![made("own", "1")], None);
        let shared = Layer::of(vec![made("a", "1"), made("b", "1")], None);
        let stacks = |shared: &Arc<Layer>| vec![Arc::clone(&own), Arc::clone(shared)];
        let first = Stack::new(stacks(&shared));
        let second = shared.with(vec![made("b", "2")]);
        let then = first.followed_by(stacks(&second));
        let third = Layer::of(vec![made("b", "2"), made("c", "1")], Some(&second));
        let now = then.followed_by(stacks(&third));

        assert_eq!(texts(now.changed(now.revision())), Some(vec![]));
        assert_eq!(
            texts(now.changed(then.revision())),
            Some(vec!["c".into(), "a".into()])
        );
        let all = vec!["b".into(), "c".into(), "a".into()];
        assert_eq!(texts(now.changed(first.revision())), Some(all));
        assert_eq!(now.followed_by(stacks(&third)).revision(), now.revision());
        // Not the successor of what was there: nobody knows.
        let strange = now.followed_by(stacks(&Layer::of(vec![], None)));
        assert_eq!(strange.changed(now.revision()), None);
        let mut many = now;
        let mut last = third;
        for number in 0..REMEMBERED {
            last = last.with(vec![made("b", &format!("x{number}"))]);
            many = many.followed_by(stacks(&last));
        }
        assert_eq!(many.changed(first.revision()), None);
    }
}
