//! What takes over when, what is needed for it, and what nothing needs any more.
use std::collections::BTreeMap;
use std::sync::Arc;

use malla_proxy_config::config_source::Origin;
use malla_xds_proto::type_url;
use tokio::time::Instant;

use super::Applier;
use super::refs::{self, Need};
use super::warm::Fetch;

impl Applier {
    /// Lets everything take over that has what it needs, or has waited for it long enough. True if something did.
    pub fn settle(&mut self, now: Instant) -> bool {
        let clusters = self.settle_clusters(now);
        self.settle_listeners(now) || clusters
    }

    fn settle_clusters(&mut self, now: Instant) -> bool {
        if self.clusters_settled && self.warming_clusters.is_empty() {
            return false;
        }
        let waiting = std::mem::take(&mut self.warming_clusters);
        let (ready, waiting): (BTreeMap<_, _>, _) = waiting
            .into_iter()
            .partition(|(_, cluster)| self.are_there(&refs::of_cluster(cluster), now));
        self.warming_clusters = waiting;
        let published = !ready.is_empty();
        if !ready.is_empty() {
            self.live.update_now(|draft| {
                for cluster in ready.into_values() {
                    draft.put_cluster(cluster);
                }
            });
            self.clusters.follow(&self.live.load_full());
        }
        if self.clusters_settled {
            return published;
        }
        let known = self.first_clusters.is_none_or(|first| first.is_over(now));
        let snapshot = self.live.load_full();
        let mut clusters = snapshot.clusters();
        self.clusters_settled = known
            && self.warming_clusters.is_empty()
            && clusters.all(|entry| self.are_there(&refs::of_cluster(&entry.config), now));
        if self.clusters_settled {
            self.gates.clusters.open();
        }
        published
    }

    fn settle_listeners(&mut self, now: Instant) -> bool {
        if !self.clusters_settled {
            return false;
        }
        let mut served = false;
        let snapshot = self.live.load_full();
        let waiting = std::mem::take(&mut self.warming);
        for (name, reservation) in waiting {
            let Some(listener) = snapshot.listener(&name) else {
                continue;
            };
            if !self.are_there(&refs::of_listener(listener), now) {
                self.warming.insert(name, reservation);
                continue;
            }
            served = true;
            if let Err(error) = self.manager().serve(Arc::clone(listener), reservation) {
                tracing::error!(listener = %name, %error, "a listener that was accepted cannot be served");
            }
        }
        if self.first_listeners.is_none_or(|first| first.is_over(now)) && self.warming.is_empty() {
            self.gates.listeners.open();
        }
        served
    }

    /// Whether all of these have come, or nobody waits for them any more.
    fn are_there(&self, needs: &[Need], now: Instant) -> bool {
        let mut awaited = needs.iter().filter(|need| self.is_awaited(need));
        awaited.all(|need| self.fetches.is_over(need, now))
    }

    /// False for what this process has from its start.
    fn is_awaited(&self, need: &Need) -> bool {
        need.reference.source.from != Origin::Bootstrap && !self.is_own(need)
    }

    /// When to [`Self::settle`] again although nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let first = [&self.first_clusters, &self.first_listeners];
        let first = first.into_iter().flatten().filter_map(Fetch::deadline);
        let clusters = self.warming_clusters.values().map(refs::of_cluster);
        let snapshot = self.live.load_full();
        let settled = self.clusters_settled;
        let early = snapshot.clusters().filter(|_| !settled);
        let early = early.map(|entry| refs::of_cluster(&entry.config));
        let listeners = self.warming.keys();
        let listeners = listeners
            .filter_map(|name| snapshot.listener(name))
            .map(|listener| refs::of_listener(listener));
        let needs = clusters.chain(early).chain(listeners);
        first
            .chain(needs.filter_map(|needs| self.fetches.deadline(&needs)))
            .min()
    }

    /// Everything that is named, by what serves and by what waits to.
    pub fn needs(&mut self, now: Instant) -> Vec<Need> {
        let snapshot = self.live.load_full();
        let clusters = snapshot.clusters().map(|entry| &*entry.config);
        let clusters = clusters
            .chain(self.warming_clusters.values())
            .flat_map(refs::of_cluster);
        let mut needs: Vec<Need> = clusters.collect();
        needs.extend(
            snapshot
                .listeners()
                .flat_map(|listener| refs::of_listener(listener)),
        );
        for (active, _) in self.manager().listeners() {
            // What the version that still serves needs, while its successor waits.
            if self.warming.contains_key(&active.config.name) {
                needs.extend(refs::of_listener(&active.config));
            }
        }
        needs.retain(|need| self.is_awaited(need));
        let gone = self.fetches.follow(&needs, now, |need| {
            let name = &*need.reference.name;
            match need.type_url {
                type_url::ROUTE => snapshot.route(name).is_some(),
                type_url::EXTENSION_CONFIG => snapshot.extension(name).is_some(),
                type_url::SECRET => snapshot
                    .secret(name)
                    .is_some_and(|cell| cell.load().is_some()),
                _ => false,
            }
        });
        self.forget(&gone);
        needs
    }

    /// `/init_dump`: what is waited for, by who waits.
    pub(crate) fn waiting(&self) -> serde_json::Value {
        let now = Instant::now();
        let snapshot = self.live.load_full();
        let missing = |needs: Vec<Need>| -> Vec<serde_json::Value> {
            let missing = needs
                .into_iter()
                .filter(|need| self.is_awaited(need) && !self.fetches.is_over(need, now));
            let name = |need: Need| {
                let kind = type_url::short(need.type_url);
                serde_json::json!({ "name": format!("{kind} {}", need.reference.name) })
            };
            missing.map(name).collect()
        };
        let clusters = self.warming_clusters.iter();
        let clusters = clusters.map(|(name, cluster)| (name, missing(refs::of_cluster(cluster))));
        let listeners = self.warming.keys().filter_map(|name| {
            let listener = snapshot.listener(name)?;
            Some((name, missing(refs::of_listener(listener))))
        });
        let dumps: Vec<serde_json::Value> = clusters
            .chain(listeners)
            .map(|(name, targets)| {
                serde_json::json!({ "name": format!("init manager {name}"), "target_names": targets })
            })
            .collect();
        if dumps.is_empty() {
            return serde_json::json!({});
        }
        serde_json::json!({ "unready_targets_dumps": dumps })
    }

    /// Drops what nothing names any more.
    fn forget(&mut self, gone: &[(&'static str, Arc<str>)]) {
        if gone.is_empty() {
            return;
        }
        self.live.update_now(|draft| {
            for (type_url, name) in gone {
                match *type_url {
                    type_url::ROUTE => draft.remove_route(name),
                    type_url::ENDPOINTS => draft.remove_endpoints(name),
                    type_url::EXTENSION_CONFIG => draft.remove_extension(name),
                    _ => draft.remove_secret(name),
                };
            }
        });
        for (type_url, name) in gone {
            self.from_files.remove(name);
            self.inventory.remove(type_url, name);
        }
    }
}
