//! A manager's filters as they are for one request: those of its configuration, and in the seats of those that come by
//! name whatever the snapshot has.
//!
//! A request keeps the chain it began with. What a filter keeps from request to request lives on as long as the filter
//! itself does not change.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::Snapshot;
use malla_proxy_config::http_filter::{Extension, HttpFilter, HttpFilterKind};
use malla_proxy_config::http_manager::HttpManager;

use super::{Runtime, edits_answers};
use crate::http::state::HttpWorker;
use crate::upstream::Upstreams;

/// The filters before the router.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) filters: Vec<HttpFilter>,
    /// What they keep, at their places.
    pub(crate) runtimes: Vec<Runtime>,
    /// A filter of it changes answers.
    pub(crate) edits_answers: bool,
    /// What came by name, at the places of those seats.
    found: Vec<Option<Arc<Extension>>>,
}

/// The chain of a manager, with the version of the snapshot it was looked up in.
#[derive(Debug)]
pub(crate) struct Chains {
    /// There are seats for filters that come by name.
    discovers: bool,
    now: RefCell<(u64, Rc<Chain>)>,
}

impl Chains {
    /// The chain as it is now.
    pub(crate) fn start<U: Upstreams>(config: &HttpManager, worker: &HttpWorker<U>) -> Self {
        let snapshot = worker.snapshot();
        let found = find(config, &snapshot);
        let discovers = config
            .filters
            .iter()
            .any(|filter| matches!(filter.kind, HttpFilterKind::Discovered(_)));
        let chain = Rc::new(Chain::build(config, found, None, worker));
        Self {
            discovers,
            now: RefCell::new((snapshot.version, chain)),
        }
    }

    /// The chain as it is in this snapshot.
    pub(crate) fn get<U: Upstreams>(
        &self,
        config: &HttpManager,
        snapshot: &Snapshot,
        worker: &HttpWorker<U>,
    ) -> Rc<Chain> {
        let mut now = self.now.borrow_mut();
        if self.discovers && now.0 != snapshot.version {
            let found = find(config, snapshot);
            let same = |(a, b): (&Option<Arc<Extension>>, &Option<Arc<Extension>>)| same(a, b);
            if !found.iter().zip(&now.1.found).all(same) {
                now.1 = Rc::new(Chain::build(config, found, Some(&now.1), worker));
            }
            now.0 = snapshot.version;
        }
        Rc::clone(&now.1)
    }
}

impl Chain {
    fn build<U: Upstreams>(
        config: &HttpManager,
        found: Vec<Option<Arc<Extension>>>,
        former: Option<&Self>,
        worker: &HttpWorker<U>,
    ) -> Self {
        let mut filters = Vec::with_capacity(config.filters.len());
        let mut runtimes = Vec::with_capacity(config.filters.len());
        for (index, (seat, extension)) in config.filters.iter().zip(&found).enumerate() {
            let filter = resolved(seat, extension.as_deref());
            let former = former.and_then(|former| {
                let known = same(former.found.get(index)?, extension);
                former.runtimes.get(index).filter(|_| known)
            });
            runtimes.push(match former {
                Some(runtime) => runtime.clone(),
                None => Runtime::start(&filter, &config.stat_prefix, worker),
            });
            filters.push(filter);
        }
        Self {
            edits_answers: edits_answers(&filters),
            filters,
            runtimes,
            found,
        }
    }
}

/// What is there for each seat; `None` where nothing came, or nothing comes.
fn find(config: &HttpManager, snapshot: &Snapshot) -> Vec<Option<Arc<Extension>>> {
    let found = |filter: &HttpFilter| match &filter.kind {
        HttpFilterKind::Discovered(seat) => snapshot
            .extension(&filter.name)
            .filter(|extension| seat.refuses(&extension.message).is_none())
            .cloned(),
        _ => None,
    };
    config.filters.iter().map(found).collect()
}

fn same(one: &Option<Arc<Extension>>, other: &Option<Arc<Extension>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// The filter that sits there now; an empty seat without a default stays one, and refuses requests.
fn resolved(seat: &HttpFilter, extension: Option<&Extension>) -> HttpFilter {
    let kind = match (&seat.kind, extension) {
        (HttpFilterKind::Discovered(_), Some(extension)) => extension.kind.clone(),
        (HttpFilterKind::Discovered(empty), None) => match &empty.default {
            Some(default) => HttpFilterKind::clone(default),
            None => seat.kind.clone(),
        },
        (kind, _) => kind.clone(),
    };
    HttpFilter {
        kind,
        ..seat.clone()
    }
}
