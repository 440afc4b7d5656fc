//! The server: its parts, its routes, and the loop that accepts connections within bounds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;
use malla_telemetry::Collector;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, info_span};

use crate::api;
use crate::assets;
use crate::auth::Authorizer;
use crate::cluster::Cluster;
use crate::control::ControlPlane;
use crate::discovery;
use crate::findings::Analyzer;
use crate::guard::{Guard, HEALTH, NoRandomness, guard};
use crate::history::History;
use crate::lessons::Lessons;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::proxies::Identities;

/// Largest request body; Kubernetes takes objects of about 1.5 MiB.
const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// Most connections at a time.
const MOST_CONNECTIONS: usize = 512;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a console is told.
#[derive(Debug)]
pub struct Options {
    /// Names, beside addresses and `localhost`, it is reached by.
    pub hosts: Vec<String>,
    /// The control plane's namespace, which is the mesh's root namespace.
    pub root_namespace: String,
    /// Name of the cluster, for display.
    pub cluster: String,
    /// Of Malla.
    pub version: String,
    /// Where the history of changes is kept; without one it ends with the process.
    pub history: Option<PathBuf>,
    pub authorizer: Arc<dyn Authorizer>,
    /// Who answers what requests did, unless the collector does.
    pub metrics: Option<Arc<dyn Metrics>>,
    /// Whether the demo's lessons are offered: they bring objects of their own into the cluster.
    pub lessons: bool,
    /// The collector of this process: its APIs stand behind the same guard, and it scrapes what the
    /// cluster's pods ask for. Whoever made it runs it.
    pub collector: Option<Arc<Collector>>,
}

/// What handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) guard: Arc<Guard>,
    pub(crate) cluster: Cluster,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) history: Arc<History>,
    pub(crate) analyzer: Analyzer,
    pub(crate) control: ControlPlane,
    pub(crate) identities: Arc<Identities>,
    pub(crate) lessons: Option<Arc<Lessons>>,
    pub(crate) metrics: Option<Arc<dyn Metrics>>,
    pub(crate) collector: Option<Arc<Collector>>,
    pub(crate) root_namespace: String,
    pub(crate) cluster_name: String,
    pub(crate) version: String,
}

/// A console; its watches run as long as it lives.
#[derive(Debug)]
pub struct Console {
    app: Arc<App>,
    routes: Router,
    _tasks: Vec<AbortOnDrop<()>>,
}

impl Console {
    /// Starts watching the cluster.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn start(client: kube::Client, options: Options) -> Result<Self, NoRandomness> {
        let history = Arc::new(History::open(options.history.as_deref()));
        let mirror = Mirror::new();
        let identities = Arc::new(Identities::default());
        let mut tasks = mirror.follow(&client, &history);
        let keep = Arc::clone(&identities).keep(client.clone(), Arc::clone(&mirror));
        tasks.push(AbortOnDrop::spawn(info_span!("identities"), keep));
        if let Some(collector) = &options.collector {
            let follow = discovery::follow(
                Arc::clone(&mirror),
                Arc::clone(collector),
                options.cluster.clone(),
            );
            tasks.push(AbortOnDrop::spawn(info_span!("discovery"), follow));
        }
        let metrics = match &options.collector {
            Some(collector) => Some(Arc::clone(collector) as Arc<dyn Metrics>),
            None => options.metrics,
        };
        let lessons = options.lessons.then(|| Arc::new(Lessons::new()));
        let app = Arc::new(App {
            guard: Arc::new(Guard::new(options.hosts, options.authorizer)?),
            control: ControlPlane::new(client.clone(), options.root_namespace.clone()),
            cluster: Cluster::new(client),
            mirror,
            history,
            analyzer: Analyzer::default(),
            identities,
            lessons,
            metrics,
            collector: options.collector,
            root_namespace: options.root_namespace,
            cluster_name: options.cluster,
            version: options.version,
        });
        let watch = api::proxies::watch(Arc::clone(&app));
        tasks.push(AbortOnDrop::spawn(info_span!("proxies"), watch));
        let routes = routes(&app);
        Ok(Self {
            app,
            routes,
            _tasks: tasks,
        })
    }

    /// Every route behind the guard, for a server of the caller's own.
    pub fn router(&self) -> Router {
        self.routes.clone()
    }

    /// Waits until the cluster's objects are known.
    pub async fn ready(&self) {
        self.app.mirror.ready().await;
    }

    /// Serves until the drain starts.
    pub async fn serve(&self, listener: TcpListener, drain: DrainWatch) {
        if !assets::are_built() {
            info!(
                "the pages are not in this program: run `npm ci && npm run build` in ui/ and build it again"
            );
        }
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased; // A stop asked for comes before new work.
                () = drain.draining() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                continue; // Full: the connection is closed.
            };
            let service = TowerToHyperService::new(self.routes.clone());
            let stop = drain.clone();
            drain.spawn(info_span!("console"), async move {
                let _place = place;
                let mut builder = Builder::new(TokioExecutor::new());
                builder
                    .http1()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT);
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::pin!(connection);
                tokio::select! {
                    // What the client did wrong is its own business.
                    ended = &mut connection => drop(ended),
                    // Event streams would never end by themselves.
                    () = stop.draining() => {}
                }
            });
        }
    }
}

fn routes(app: &Arc<App>) -> Router {
    let ours = Router::new()
        .route("/session", get(api::session::get))
        .route("/overview", get(api::overview::get))
        .route("/graph", get(api::graph::get))
        .route("/services", get(api::services::list))
        .route("/services/{namespace}/{name}", get(api::services::get))
        .route("/kinds", get(api::kinds::list))
        .route("/objects", get(api::objects::list))
        .route("/objects:check", post(api::check::check))
        .route("/objects:apply", post(api::objects::apply))
        .route(
            "/objects/{kind}/{namespace}/{name}",
            get(api::objects::get).delete(api::objects::delete),
        )
        .route("/changes", get(api::changes::list))
        .route("/changes/{id}/undo", post(api::changes::undo))
        .route("/gateways", get(api::gateways::list))
        .route("/security", get(api::security::get))
        .route("/proxies", get(api::proxies::list))
        .route(
            "/proxies/{namespace}/{pod}/config",
            get(api::proxies::config),
        )
        .route("/lessons", get(api::lessons::list))
        .route("/lessons/{action}", post(api::lessons::act))
        .route("/events", get(api::events::stream))
        .with_state(Arc::clone(app));
    let telemetry = app
        .collector
        .as_ref()
        .map_or_else(api::telemetry::absent, Collector::router);
    let health = Arc::clone(app);
    Router::new()
        .nest("/api/malla/v1", ours)
        .merge(telemetry)
        .route(HEALTH, get(move || async move { healthy(&health) }))
        .route("/api/{*rest}", axum::routing::any(api::missing))
        .route("/jaeger/{*rest}", axum::routing::any(api::missing))
        .fallback(assets::serve)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app.guard),
            guard,
        ))
}

fn healthy(app: &App) -> (StatusCode, &'static str) {
    if app.mirror.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster's objects are not known yet\n",
        )
    }
}
