//! Services and their endpoints as the node serves them.
//!
//! One task looks at all Services and EndpointSlices whenever one of them changes, and gives the
//! same picture to the packet rules, to the cluster's DNS and to the ports published on the host.
//! Looking at all of them costs less than a millisecond and cannot drift.

mod published;
mod view;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use malla_apiserver::Client;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::controllers::Feeds;
use crate::dns::Zone;
use crate::events::Recorder;
use crate::net::{Namespace, ServiceRules};

use self::published::Publisher;
use view::ServiceView;

/// Pause before the picture is drawn again after something could not be done.
const RETRY: Duration = Duration::from_secs(1);

pub use published::{PUBLISHED, published};

/// What the synchronizer keeps up to date.
pub(crate) struct Outlets {
    pub(crate) rules: ServiceRules,
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    pub(crate) domain: String,
    pub(crate) node: Ipv4Addr,
    pub(crate) namespace: Namespace,
}

/// Adds its listeners to `feeds` and starts the task.
pub(crate) fn start(
    client: Client,
    events: Recorder,
    outlets: Outlets,
    feeds: &mut Feeds,
) -> AbortOnDropHandle<()> {
    let changed = Arc::new(Notify::new());
    for feed in [
        &mut feeds.services,
        &mut feeds.endpoint_slices,
        &mut feeds.namespaces,
    ] {
        let changed = Arc::clone(&changed);
        feed.listen(move |_| changed.notify_one());
    }
    let publisher = Publisher::new(client.clone(), events, outlets.namespace.clone());
    AbortOnDropHandle::new(tokio::spawn(keep(client, outlets, publisher, changed)))
}

async fn keep(
    client: Client,
    mut outlets: Outlets,
    mut publisher: Publisher,
    changed: Arc<Notify>,
) {
    loop {
        changed.notified().await;
        if let Err(error) = sync(&client, &mut outlets, &mut publisher).await {
            tracing::warn!(error, "services are not up to date");
            let again = Arc::clone(&changed);
            tokio::time::sleep(RETRY).await;
            again.notify_one();
        }
    }
}

async fn sync(
    client: &Client,
    outlets: &mut Outlets,
    publisher: &mut Publisher,
) -> Result<(), String> {
    let views = view::read(client).map_err(|error| error.message().to_owned())?;
    let namespaces = view::namespaces(client).map_err(|error| error.message().to_owned())?;
    let zone = Zone::new(
        &outlets.domain,
        namespaces,
        views.iter().map(ServiceView::names),
    );
    outlets.zone.store(Arc::new(zone));
    let rules = view::rules(&views, outlets.node);
    let applied = outlets.rules.apply(rules).await;
    let published = publisher.publish(&views).await;
    applied.map_err(|error| error.to_string())?;
    published.map_err(|error| error.message().to_owned())
}
