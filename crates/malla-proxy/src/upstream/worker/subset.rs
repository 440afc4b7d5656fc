//! Subset load balancing: the group of hosts for a request's metadata, and where it goes if there is none.
//!
//! The order of lookups is Envoy's `SubsetLoadBalancer::chooseHost`.
use std::sync::Arc;

use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::cluster::subset::{
    FALLBACK_LIST, Fallback, NAMESPACE, Selector, SelectorFallback, Subsets,
};
use malla_proxy_config::metadata::{Metadata, Object, Value};

use super::pick::Picker;
use crate::balance::{Request, Rng64};
use crate::telemetry::stats::ClusterStats;
use crate::upstream::host::Host;

/// One choice.
pub(super) struct SubsetPick<'a> {
    pub(super) picker: &'a mut Picker,
    pub(super) config: &'a Cluster,
    pub(super) subsets: &'a Subsets,
    pub(super) request: Request,
    pub(super) rng: &'a mut Rng64,
    pub(super) refuse: &'a dyn Fn(&Host) -> bool,
    pub(super) stats: &'a ClusterStats,
}

impl SubsetPick<'_> {
    /// The host for a request whose route has this metadata.
    pub(super) fn choose(mut self, wanted: Option<&Metadata>) -> Option<Arc<Host>> {
        let empty = Object::new();
        let wanted = wanted
            .and_then(|wanted| wanted.get(NAMESPACE))
            .unwrap_or(&empty);
        match wanted.get(FALLBACK_LIST) {
            Some(Value::List(alternatives)) if self.subsets.fallback_list => {
                let mut base = wanted.clone();
                base.remove(FALLBACK_LIST);
                alternatives.iter().find_map(|alternative| {
                    let Value::Object(alternative) = alternative else {
                        return None;
                    };
                    let mut merged = base.clone();
                    merged.extend(alternative.clone());
                    self.choose_by(&merged)
                })
            }
            _ => self.choose_by(wanted),
        }
    }

    fn choose_by(&mut self, criteria: &Object) -> Option<Arc<Host>> {
        if let Some(selector) = self.subsets.selector(criteria) {
            if let Some(picked) = self.of_subset(selector, criteria) {
                self.stats.lb_subsets_selected.inc();
                return picked;
            }
            match &selector.fallback {
                None => {}
                Some(SelectorFallback::None) => return None,
                Some(SelectorFallback::Any) => return self.fall_back(Self::any),
                Some(SelectorFallback::Default) => return self.fall_back(Self::default_subset),
                Some(SelectorFallback::Keys(keys)) => {
                    let mut fewer = criteria.clone();
                    fewer.retain(|key, _| keys.contains(key));
                    // Fewer keys each time, so it ends.
                    return self.choose_by(&fewer);
                }
            }
        }
        match &self.subsets.fallback {
            Fallback::None => return None,
            Fallback::Any => return self.fall_back(Self::any),
            Fallback::Default(_) => {
                if let Some(host) = self.fall_back(Self::default_subset) {
                    return Some(host);
                }
            }
        }
        if self.subsets.panic_mode_any {
            self.stats.lb_subsets_fallback_panic.inc();
            return self.any();
        }
        None
    }

    fn fall_back(&mut self, to: fn(&mut Self) -> Option<Arc<Host>>) -> Option<Arc<Host>> {
        let host = to(self)?;
        self.stats.lb_subsets_fallback.inc();
        Some(host)
    }

    /// A host of the subset; `None` if there is no such subset, `Some(None)` if none of its hosts may be used.
    fn of_subset(&mut self, selector: &Selector, criteria: &Object) -> Option<Option<Arc<Host>>> {
        let subsets = self.subsets;
        let fits = |host: &Host| subsets.contains(criteria, host.endpoint.metadata.get(NAMESPACE));
        let only = if selector.single {
            let first = self.picker.hosts().iter().find(|host| fits(host))?;
            Some(first.endpoint.address.clone())
        } else {
            None
        };
        let keep = |host: &Host| {
            only.as_ref()
                .is_none_or(|only| *only == host.endpoint.address)
                && fits(host)
        };
        let current = self.picker.subset(self.config, key_of(criteria), keep)?;
        let policy = &self.config.balance.policy;
        Some(current.pick(policy, self.request, self.rng, self.refuse))
    }

    fn default_subset(&mut self) -> Option<Arc<Host>> {
        let Fallback::Default(criteria) = &self.subsets.fallback else {
            return None;
        };
        let subsets = self.subsets;
        let keep = |host: &Host| subsets.contains(criteria, host.endpoint.metadata.get(NAMESPACE));
        let key = format!("default {}", key_of(criteria));
        let current = self.picker.subset(self.config, key, keep)?;
        let policy = &self.config.balance.policy;
        current.pick(policy, self.request, self.rng, self.refuse)
    }

    fn any(&mut self) -> Option<Arc<Host>> {
        let policy = &self.config.balance.policy;
        let current = self.picker.all()?;
        current.pick(policy, self.request, self.rng, self.refuse)
    }
}

/// Names a subset: the same criteria always give the same text, for keys are in order.
fn key_of(criteria: &Object) -> String {
    Value::Object(criteria.clone()).into_json().to_string()
}
