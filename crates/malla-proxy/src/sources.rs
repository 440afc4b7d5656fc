//! Follows every configuration source that the bootstrap or a resource names: the aggregated stream, streams of one type,
//! files. All of them feed the one [`Applier`].
//!
//! After each response: apply it, let what is complete take over, look at what is named now, and start, tell or end the
//! sources accordingly. A source is known by what its `ConfigSource` says, so equal ones share a stream.
//!
//! Invariants: one response is applied at a time; a source that fails changes nothing of what is in use.
mod counts;
mod dial;
mod files;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use malla_proxy_config::bootstrap::Dynamic;
use malla_proxy_config::config_source::{GrpcOrigin, Origin, PathOrigin};
use malla_runtime::log::Throttle;
use malla_runtime::task::AbortOnDrop;
use malla_xds::client::{
    AdsClient, ClientConfig, Interest, Rejection, ResourceHandler, Status, Update, Verdict,
};
use malla_xds::message::Variant;
use malla_xds::transport::Transport;
use malla_xds::transport::dialed::DialedConnector;
use malla_xds::transport::grpc::{Connector, GrpcTransport};
use malla_xds_proto::core::Node;
use malla_xds_proto::{json, type_url};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use self::counts::Counts;
use self::dial::ClusterDialer;
use self::files::Files;
use self::watch::{Moved, Watcher};
use crate::apply::Applier;
use crate::live::Live;
use crate::tls::TlsSetup;
use crate::upstream::cluster::Clusters;

/// Rounds of "a file names a file"; a configuration that needs more goes round in circles.
const MAX_ROUNDS: usize = 16;

/// The control plane of a managed proxy: everything comes from there, whatever resources say.
pub(crate) struct Managed {
    pub(crate) client: ClientConfig,
    pub(crate) transport: Arc<dyn Transport>,
}

/// What sources are made with.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) node: Node,
    pub(crate) live: Live,
    pub(crate) clusters: Clusters,
    pub(crate) setup: TlsSetup,
}

/// All sources of a proxy; dropping it ends them, and what is configured stays.
#[derive(Debug)]
pub(crate) struct Sources {
    shared: Arc<Shared>,
    _task: AbortOnDrop<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A deadline may have come closer.
    changed: Notify,
    watcher: Option<Watcher>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Ads,
    Grpc(Arc<GrpcOrigin>, &'static str),
    Path(Arc<PathOrigin>, &'static str),
}

type Interests = Vec<(malla_xds::TypeUrl, Interest)>;

struct State {
    applier: Applier,
    dynamic: Dynamic,
    managed: Option<Managed>,
    means: Means,
    streams: HashMap<Key, AdsClient>,
    wanted: HashMap<Key, Interests>,
    files: Files,
    counts: Counts,
    warnings: Throttle,
    shared: Weak<Shared>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Sources {
    /// Starts whatever `applier`'s bootstrap needs. Files are read before this returns.
    pub(crate) fn start(
        mut applier: Applier,
        dynamic: Dynamic,
        managed: Option<Managed>,
        means: Means,
    ) -> Self {
        if managed.is_some() {
            applier.expect_everything();
        }
        let watcher = Watcher::new();
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files that change will not be noticed");
        }
        let shared = Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(State {
                applier,
                dynamic,
                managed,
                means,
                streams: HashMap::new(),
                wanted: HashMap::new(),
                files: Files::default(),
                counts: Counts::default(),
                warnings: Throttle::default(),
                shared: Weak::clone(shared),
            }),
            changed: Notify::new(),
            watcher: watcher.ok(),
        });
        shared.lock().refresh(shared.watcher.as_ref(), None);
        let task = AbortOnDrop::spawn(Span::current(), Arc::clone(&shared).run());
        Self {
            shared,
            _task: task,
        }
    }

    /// For whoever shows and changes what is configured.
    pub(crate) fn handle(&self) -> SourcesHandle {
        SourcesHandle(Arc::downgrade(&self.shared))
    }

    /// The aggregated stream, if there is one.
    pub(crate) fn status(&self) -> Option<Arc<Status>> {
        let state = self.shared.lock();
        let ads = state.streams.get(&Key::Ads)?;
        Some(Arc::clone(&ads.status().borrow()))
    }
}

/// Looks at sources while they run; cheap to clone.
#[derive(Debug, Clone)]
pub struct SourcesHandle(Weak<Shared>);

impl SourcesHandle {
    /// The runtime's layers and values.
    pub(crate) fn runtime(&self) -> serde_json::Value {
        let shared = self.0.upgrade();
        shared.map_or(serde_json::Value::Null, |shared| {
            shared.lock().applier.runtime().show()
        })
    }

    /// Overrides runtime values.
    ///
    /// # Errors
    /// When there is no layer for that.
    pub(crate) fn modify_runtime(&self, changes: &[(String, String)]) -> Result<(), &'static str> {
        let shared = self.0.upgrade().ok_or("the proxy is stopping")?;
        let mut state = shared.lock();
        state.applier.modify_runtime(changes)?;
        state.refresh(shared.watcher.as_ref(), None);
        Ok(())
    }

    /// Counters of updates, and whether the control plane is there, by full name.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let Some(shared) = self.0.upgrade() else {
            return BTreeMap::new();
        };
        let state = shared.lock();
        let counts = state.counts.iter();
        let mut counts: BTreeMap<String, u64> =
            counts.map(|(name, count)| (name.clone(), *count)).collect();
        if let Some(ads) = state.streams.get(&Key::Ads) {
            let connected = ads.status().borrow().connected;
            counts.insert("control_plane.connected_state".to_owned(), connected.into());
        }
        counts
    }

    /// Versions in use, by full name.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        let shared = self.0.upgrade();
        shared.map_or_else(BTreeMap::new, |shared| shared.lock().counts.texts().clone())
    }

    /// What is not there yet of the first configuration.
    pub(crate) fn waiting(&self) -> serde_json::Value {
        let shared = self.0.upgrade();
        shared.map_or(serde_json::Value::Null, |shared| {
            shared.lock().applier.waiting()
        })
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        // The streams' handlers hold us weakly; the streams themselves end here.
        self.shared.lock().streams.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Everything in it is replaced whole; the applier leaves itself consistent at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends waits in time, and follows files.
    async fn run(self: Arc<Self>) {
        loop {
            let deadline = self.lock().applier.deadline();
            tokio::select! {
                () = until(deadline) => {}
                () = self.changed.notified() => continue,
                moved = ready(self.watcher.as_ref()) => {
                    let mut state = self.lock();
                    let moved = moved.take(&mut state.files.directories);
                    state.moved(&moved, self.watcher.as_ref());
                }
            }
            self.lock().refresh(self.watcher.as_ref(), None);
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until a watch has something to tell.
async fn ready(watcher: Option<&Watcher>) -> &Watcher {
    match watcher {
        Some(watcher) if watcher.ready().await.is_ok() => watcher,
        _ => std::future::pending().await,
    }
}

impl State {
    /// Lets what is complete take over, and asks for what is named now. `current` is told by its own answer.
    fn refresh(&mut self, watcher: Option<&Watcher>, current: Option<&Key>) {
        for _ in 0..MAX_ROUNDS {
            let now = Instant::now();
            let needs = self.applier.needs(now);
            let wanted = self.group(&needs);
            let changed: Vec<Key> = wanted
                .iter()
                .filter(|(key, interests)| self.wanted.get(*key) != Some(*interests))
                .map(|(key, _)| key.clone())
                .collect();
            self.streams
                .retain(|key, _| wanted.contains_key(key) || current == Some(key));
            self.wanted = wanted;
            let mut loaded = self.applier.read_agent_files(&needs);
            for key in changed {
                if let Key::Path(origin, type_url) = &key {
                    self.load(origin, type_url, watcher);
                    loaded = true;
                } else if current != Some(&key) {
                    self.ask(&key);
                }
            }
            let settled = self.applier.settle(Instant::now());
            if !loaded && !settled {
                break;
            }
        }
        self.files.follow_secrets(&self.applier, watcher);
        for directory in self.applier.runtime().directories() {
            self.files.add(&directory, watcher);
        }
        // What files are parsed with takes megabytes, and the next change may be days away.
        json::release();
        if let Some(shared) = self.shared.upgrade() {
            shared.changed.notify_one();
        }
    }

    /// Who is to be asked for what.
    fn group(&mut self, needs: &[crate::apply::Need]) -> HashMap<Key, Interests> {
        let mut names: HashMap<Key, BTreeMap<&'static str, Interest>> = HashMap::new();
        if self.managed.is_some() || self.dynamic.ads.is_some() {
            // The stream is told of a type that nothing names any more, too.
            let ads = names.entry(Key::Ads).or_default();
            for url in [
                type_url::ENDPOINTS,
                type_url::ROUTE,
                type_url::SECRET,
                type_url::EXTENSION_CONFIG,
            ] {
                ads.entry(url).or_default();
            }
        }
        let all = [
            (type_url::CLUSTER, &self.dynamic.clusters),
            (type_url::LISTENER, &self.dynamic.listeners),
        ];
        for (url, source) in all {
            let from = match (&self.managed, source) {
                (Some(_), _) => Origin::Ads,
                (None, Some(source)) => source.from.clone(),
                (None, None) => continue,
            };
            if let Some(key) = self.key(&from, url) {
                names.entry(key).or_default().insert(url, Interest::all());
            }
        }
        let mut origins: HashMap<(&str, &str), Key> = HashMap::new();
        for need in needs
            .iter()
            .filter(|need| !self.applier.is_agent_file(need))
        {
            let Some(key) = self.key(&need.reference.source.from, need.type_url) else {
                continue;
            };
            let name = &need.reference.name;
            let first = origins
                .entry((need.type_url, name))
                .or_insert_with(|| key.clone());
            if *first != key {
                if self.warnings.allow(name).is_some() {
                    let kind = type_url::short(need.type_url);
                    tracing::error!(%name, kind, "two sources are named for one resource; the first one has it");
                }
                continue;
            }
            let interests = names.entry(key).or_default();
            let interest = interests.entry(need.type_url).or_default();
            interest.names.insert((&**name).into());
        }
        let listed = |interests: BTreeMap<&'static str, Interest>| {
            let interests = interests.into_iter();
            interests
                .map(|(url, interest)| (url.into(), interest))
                .collect()
        };
        names
            .into_iter()
            .map(|(key, interests)| (key, listed(interests)))
            .collect()
    }

    fn key(&self, from: &Origin, type_url: &'static str) -> Option<Key> {
        match from {
            _ if self.managed.is_some() => Some(Key::Ads),
            // Without `ads_config` nobody answers, as in Envoy; whoever waits, waits in vain.
            Origin::Ads => self.dynamic.ads.as_ref().map(|_| Key::Ads),
            Origin::Grpc(origin) => Some(Key::Grpc(Arc::clone(origin), type_url)),
            Origin::Path(origin) => Some(Key::Path(Arc::clone(origin), type_url)),
            Origin::Bootstrap => None,
        }
    }

    /// Tells a stream what is wanted of it; starts it if need be.
    fn ask(&mut self, key: &Key) {
        if let Some(stream) = self.streams.get(key) {
            for (url, interest) in self.wanted.get(key).into_iter().flatten() {
                stream.set_interest(url.clone(), interest.clone());
            }
            return;
        }
        let handler = Box::new(Follower {
            shared: Weak::clone(&self.shared),
            key: key.clone(),
        });
        let (config, transport) = match (key, &self.managed, &self.dynamic.ads) {
            (Key::Ads, Some(managed), _) => {
                (managed.client.clone(), Arc::clone(&managed.transport))
            }
            (Key::Ads, None, Some(origin)) => self.stream(origin, None),
            (Key::Grpc(origin, url), _, _) => self.stream(origin, Some(url)),
            (Key::Ads | Key::Path(..), _, _) => return,
        };
        let stream = AdsClient::start(config, transport, handler);
        self.streams.insert(key.clone(), stream);
    }

    fn stream(
        &self,
        origin: &GrpcOrigin,
        single: Option<&str>,
    ) -> (ClientConfig, Arc<dyn Transport>) {
        let mut config = ClientConfig::new(self.means.node.clone());
        config.variant = if origin.delta {
            Variant::Delta
        } else {
            Variant::Sotw
        };
        let dialer = ClusterDialer {
            live: self.means.live.clone(),
            clusters: self.means.clusters.clone(),
            setup: self.means.setup.clone(),
            service: origin.service.clone(),
            next: AtomicUsize::new(0),
        };
        let connector: Arc<dyn Connector> = Arc::new(DialedConnector(Arc::new(dialer)));
        let transport = match single {
            None => GrpcTransport::new(connector),
            Some(url) => GrpcTransport::of_type(connector, url),
        };
        (config, Arc::new(transport))
    }

    /// Reads a file and applies it.
    fn load(
        &mut self,
        origin: &Arc<PathOrigin>,
        type_url: &'static str,
        watcher: Option<&Watcher>,
    ) {
        let key = Key::Path(Arc::clone(origin), type_url);
        let Some((_, interest)) = self.wanted.get(&key).and_then(|all| all.first()) else {
            return;
        };
        let interest = interest.clone();
        // Watched before it is read: a change between the two is seen twice, not missed.
        self.files.watch(origin, watcher);
        match self.files.read(origin, type_url, &interest) {
            Ok((update, mut rejected)) => {
                rejected.extend(self.applier.apply(&update));
                self.files.applied(origin, &update, &rejected);
                let names = update.resources.iter().map(|received| &*received.name);
                self.counts.update(type_url, names, &rejected);
                log_file(origin, type_url, &rejected);
            }
            Err(reason) => {
                self.counts.failure(type_url);
                let path = origin.path.display();
                tracing::warn!(%path, kind = type_url::short(type_url), reason, "file rejected; what it said last stays");
            }
        }
    }

    fn moved(&mut self, moved: &HashSet<Moved>, watcher: Option<&Watcher>) {
        let concerned: Vec<_> = self
            .wanted
            .keys()
            .filter_map(|key| match key {
                Key::Path(origin, url) => Some((Arc::clone(origin), *url)),
                Key::Ads | Key::Grpc(..) => None,
            })
            .filter(|(origin, _)| {
                let watched = origin.watched_directory.as_deref();
                moved.iter().any(|one| one.concerns(&origin.path, watched))
            })
            .collect();
        // What is referred to first, as on a stream.
        for url in [
            type_url::CLUSTER,
            type_url::ENDPOINTS,
            type_url::LISTENER,
            type_url::ROUTE,
            type_url::SECRET,
            type_url::EXTENSION_CONFIG,
        ] {
            for (origin, _) in concerned.iter().filter(|(_, other)| *other == url) {
                self.load(origin, url, watcher);
            }
        }
        let roots = self.applier.runtime().directories();
        let swapped = |one: &Moved| match one {
            Moved::Anything => !roots.is_empty(),
            Moved::Into(directory, _) => roots.contains(directory),
        };
        if moved.iter().any(swapped) {
            self.applier.reload_runtime();
        }
        for name in self.files.secrets_concerned(moved) {
            self.applier.reload_secret(&name);
        }
    }
}

fn log_file(origin: &PathOrigin, type_url: &str, rejected: &[Rejection]) {
    let (path, kind) = (origin.path.display(), type_url::short(type_url));
    for rejection in rejected {
        let (name, reason) = (&*rejection.name, &*rejection.reason);
        tracing::warn!(%path, kind, name, reason, "resource rejected");
    }
    if rejected.is_empty() {
        tracing::info!(%path, kind, "file applied");
    }
}

/// Takes what one stream brings.
struct Follower {
    shared: Weak<Shared>,
    key: Key,
}

impl Follower {
    fn wanted(state: &State, key: &Key) -> Interests {
        state.wanted.get(key).cloned().unwrap_or_default()
    }
}

impl ResourceHandler for Follower {
    fn subscriptions(&self) -> Interests {
        let shared = self.shared.upgrade();
        shared
            .map(|shared| Self::wanted(&shared.lock(), &self.key))
            .unwrap_or_default()
    }

    fn apply(&mut self, update: Update) -> Verdict {
        let Some(shared) = self.shared.upgrade() else {
            return Verdict::default();
        };
        let mut state = shared.lock();
        let rejected = state.applier.apply(&update);
        let names = update.resources.iter().map(|received| &*received.name);
        state.counts.update(&update.type_url, names, &rejected);
        state.counts.version(&update.type_url, &update.version);
        let names_others = matches!(
            update.type_url.as_str(),
            type_url::CLUSTER | type_url::LISTENER
        );
        // Endpoints, routes and secrets name nothing: a change of one costs nothing for the others.
        if names_others || state.applier.settle(Instant::now()) {
            state.refresh(shared.watcher.as_ref(), Some(&self.key));
        } else if update.type_url.as_str() == type_url::SECRET {
            let State { files, applier, .. } = &mut *state;
            files.follow_secrets(applier, shared.watcher.as_ref());
        }
        Verdict {
            rejected,
            subscriptions: Self::wanted(&state, &self.key),
        }
    }
}
