//! Where routing led, held without touching what other workers count references of.

use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::http_filter::FilterOverride;
use malla_proxy_config::request::{RequestView, text};
use malla_proxy_config::route::action::{Action, Forward, Target, WeightedCluster};
use malla_proxy_config::route::{Route, RouteConfig, VirtualHost};

/// A route configuration as one worker holds it: cloned for each request, so not by a shared counter.
pub(crate) type LocalRoutes = Rc<Arc<RouteConfig>>;

/// A route of a virtual host. Invariant: the indices were found in this very configuration.
#[derive(Debug)]
pub(crate) struct Selected {
    config: LocalRoutes,
    vhost: usize,
    route: usize,
    /// Index of the weighted cluster, where there are several.
    weighted: Option<usize>,
}

impl Selected {
    /// Routes a request; `random` decides fractions and weights.
    pub(crate) fn find(
        config: LocalRoutes,
        request: &RequestView<'_>,
        random: u64,
    ) -> Option<Self> {
        let vhost = config.vhost_index(request.authority())?;
        let route = config.vhosts.get(vhost)?.route_index(request, random)?;
        let mut out = Self {
            config,
            vhost,
            route,
            weighted: None,
        };
        if let Some(Target::Weighted(weighted)) = out.forward().map(|forward| &forward.target) {
            let from_header = weighted
                .random_header
                .as_ref()
                .and_then(|name| request.headers.get(name));
            let point = from_header
                .and_then(|value| text(value).parse().ok())
                .unwrap_or(random);
            out.weighted = weighted.pick_index(point);
        }
        Some(out)
    }

    /// The whole configuration.
    pub(crate) fn config(&self) -> &RouteConfig {
        &self.config
    }

    /// The virtual host.
    pub(crate) fn vhost(&self) -> &VirtualHost {
        self.config
            .vhosts
            .get(self.vhost)
            .expect("found in this configuration, which never changes")
    }

    /// The route.
    pub(crate) fn route(&self) -> &Route {
        self.vhost()
            .routes
            .get(self.route)
            .expect("found in this virtual host, which never changes")
    }

    /// The forwarding action, if it is one.
    pub(crate) fn forward(&self) -> Option<&Forward> {
        match &self.route().action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Direct(_) | Action::NonForwarding => None,
        }
    }

    /// The weighted cluster drawn for this request.
    pub(crate) fn weighted(&self) -> Option<&WeightedCluster> {
        match &self.forward()?.target {
            Target::Weighted(weighted) => weighted.clusters.get(self.weighted?),
            Target::Cluster(_) | Target::Header(_) => None,
        }
    }

    /// What each level says about a filter, the most specific first.
    pub(crate) fn per_filter_levels<'s>(
        &'s self,
        name: &str,
    ) -> impl Iterator<Item = &'s FilterOverride> {
        let weighted = self
            .weighted()
            .and_then(|cluster| cluster.per_filter.get(name));
        let levels = [
            weighted,
            self.route().per_filter.get(name),
            self.vhost().per_filter.get(name),
            self.config().per_filter.get(name),
        ];
        levels.into_iter().flatten()
    }

    /// What the most specific level says about a filter.
    pub(crate) fn per_filter(&self, name: &str) -> Option<&FilterOverride> {
        let weighted = self
            .weighted()
            .and_then(|cluster| cluster.per_filter.get(name));
        weighted
            .or_else(|| self.route().per_filter.get(name))
            .or_else(|| self.vhost().per_filter.get(name))
            .or_else(|| self.config().per_filter.get(name))
    }
}
