//! A provider as one worker has it: its keys, fetched where they are remote, and the good tokens it has seen.
//!
//! Invariants: requests that wait for keys wait for one fetch, not each for its own; a fetch has limits of time and size;
//! kept tokens are bounded in number and length, and forgotten when the keys change.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Uri};
use malla_proxy_config::http_filter::{JwksSource, JwtAuthn, RemoteJwks};
use malla_runtime::task::AbortOnDrop;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::keys::Jwks;
use super::status::Status;
use super::token::Token;
use crate::call::Caller;
use crate::telemetry::stats::JwtStats;
use crate::tls::Env;
use crate::upstream::Upstreams;

/// No key set is longer, bytes.
const MAX_JWKS: usize = 1 << 20;
/// Keys that are fetched ahead are fetched this long before they are too old.
const AHEAD: Duration = Duration::from_secs(5);

/// The filter as one worker has it.
#[derive(Debug)]
pub(crate) struct JwtFilter {
    pub(crate) config: Arc<JwtAuthn>,
    pub(crate) stats: Arc<JwtStats>,
    providers: Vec<Rc<Provider>>,
}

/// One provider.
#[derive(Debug)]
pub(crate) struct Provider {
    remote: Option<Arc<RemoteJwks>>,
    stats: Arc<JwtStats>,
    keys: RefCell<Held>,
    fetching: RefCell<Option<Rc<Fetch>>>,
    tasks: RefCell<Vec<AbortOnDrop<()>>>,
    tokens: Option<RefCell<Tokens>>,
}

/// Keys, and until when they count; for ever where that is not said.
#[derive(Debug, Default)]
struct Held {
    keys: Option<Rc<Jwks>>,
    until: Option<Instant>,
}

/// A fetch under way, for those who wait for it.
#[derive(Debug, Default)]
struct Fetch {
    result: RefCell<Option<Result<Rc<Jwks>, Status>>>,
    done: Notify,
}

/// Good tokens by their text; the oldest goes first.
#[derive(Debug)]
struct Tokens {
    size: usize,
    longest: usize,
    kept: HashMap<Arc<str>, Rc<Token>>,
    order: VecDeque<Arc<str>>,
}

impl JwtFilter {
    /// Reads local keys, and starts to fetch those that are to be there before they are asked for.
    pub(crate) fn new<U: Upstreams>(
        config: &Arc<JwtAuthn>,
        stats: Arc<JwtStats>,
        caller: &Rc<Caller<U>>,
        env: &Env,
    ) -> Rc<Self> {
        let providers = config.providers.iter().map(|config| {
            let (local, remote) = match &config.keys {
                JwksSource::Inline(text) => (Some(Ok(text.to_string())), None),
                JwksSource::File(path) => (Some(read(path)), None),
                JwksSource::Environment(name) => {
                    let text = env(name).ok_or_else(|| format!("there is no variable {name}"));
                    (Some(text), None)
                }
                JwksSource::Remote(remote) => (None, Some(Arc::clone(remote))),
            };
            let keys = local.and_then(|text| local_keys(&config.name, text));
            let provider = Rc::new(Provider {
                remote,
                stats: Arc::clone(&stats),
                keys: RefCell::new(Held { keys, until: None }),
                fetching: RefCell::default(),
                tasks: RefCell::default(),
                tokens: config.cache.map(|(size, longest)| {
                    RefCell::new(Tokens {
                        size,
                        longest,
                        kept: HashMap::new(),
                        order: VecDeque::new(),
                    })
                }),
            });
            if let Some(remote) = &provider.remote
                && let Some(pause) = remote.ahead
            {
                let task = keep_fetching(Rc::downgrade(&provider), Rc::clone(caller), pause);
                let task = tokio::task::spawn_local(task);
                provider.tasks.borrow_mut().push(AbortOnDrop::adopt(task));
            }
            provider
        });
        Rc::new(Self {
            providers: providers.collect(),
            config: Arc::clone(config),
            stats,
        })
    }

    /// By its place in the configuration.
    pub(crate) fn provider(&self, index: usize) -> Option<&Rc<Provider>> {
        self.providers.get(index)
    }
}

/// Read once, when the filter starts.
fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// Keys that cannot be read are none: every token of the provider is refused, as in Envoy.
fn local_keys(name: &str, text: Result<String, String>) -> Option<Rc<Jwks>> {
    let parsed = text.and_then(|text| Jwks::parse(&text).map_err(|status| status.to_string()));
    match parsed {
        Ok(keys) => Some(Rc::new(keys)),
        Err(reason) => {
            tracing::warn!(
                provider = name,
                reason,
                "local keys of a JWT provider cannot be used"
            );
            None
        }
    }
}

impl Provider {
    /// The keys, fetched if need be.
    pub(crate) async fn keys<U: Upstreams>(
        self: &Rc<Self>,
        caller: &Rc<Caller<U>>,
    ) -> Result<Rc<Jwks>, Status> {
        if let Some(keys) = self.fresh() {
            return Ok(keys);
        }
        if self.remote.is_none() {
            return Err(Status::JwksNoValidKeys);
        }
        self.fetch(caller).await
    }

    fn fresh(&self) -> Option<Rc<Jwks>> {
        let held = self.keys.borrow();
        let fresh = held.until.is_none_or(|until| Instant::now() < until);
        held.keys.clone().filter(|_| fresh)
    }

    /// Waits for the fetch under way, or for a new one.
    async fn fetch<U: Upstreams>(
        self: &Rc<Self>,
        caller: &Rc<Caller<U>>,
    ) -> Result<Rc<Jwks>, Status> {
        let fetch = self.current_fetch(caller);
        loop {
            let done = fetch.done.notified();
            if let Some(result) = &*fetch.result.borrow() {
                return result.clone();
            }
            done.await;
        }
    }

    fn current_fetch<U: Upstreams>(self: &Rc<Self>, caller: &Rc<Caller<U>>) -> Rc<Fetch> {
        let mut fetching = self.fetching.borrow_mut();
        if let Some(fetch) = &*fetching {
            return Rc::clone(fetch);
        }
        let fetch = Rc::new(Fetch::default());
        *fetching = Some(Rc::clone(&fetch));
        // Not the request's own future: others wait for it too, and a client may go away.
        let task = run_fetch(Rc::downgrade(self), Rc::clone(caller), Rc::clone(&fetch));
        let task = AbortOnDrop::adopt(tokio::task::spawn_local(task));
        let mut tasks = self.tasks.borrow_mut();
        tasks.truncate(usize::from(
            self.remote.as_ref().is_some_and(|it| it.ahead.is_some()),
        ));
        tasks.push(task);
        fetch
    }

    /// Takes what a fetch has brought.
    fn finish(&self, fetch: &Fetch, result: Result<Jwks, Status>) {
        match &result {
            Ok(_) => self.stats.jwks_fetch_success.inc(),
            Err(_) => self.stats.jwks_fetch_failed.inc(),
        }
        let result = result.map(Rc::new);
        if let (Ok(keys), Some(remote)) = (&result, &self.remote) {
            // Those that are fetched ahead count until there are newer ones.
            let until = remote
                .ahead
                .is_none()
                .then(|| Instant::now() + remote.cache);
            *self.keys.borrow_mut() = Held {
                keys: Some(Rc::clone(keys)),
                until,
            };
            if let Some(tokens) = &self.tokens {
                let mut tokens = tokens.borrow_mut();
                tokens.kept.clear();
                tokens.order.clear();
            }
        }
        *fetch.result.borrow_mut() = Some(result);
        self.fetching.borrow_mut().take();
        fetch.done.notify_waiters();
    }

    /// A good token seen before.
    pub(crate) fn known(&self, text: &str) -> Option<Rc<Token>> {
        let tokens = self.tokens.as_ref();
        let known = tokens.and_then(|tokens| tokens.borrow().kept.get(text).cloned());
        match &known {
            Some(_) => self.stats.jwt_cache_hit.inc(),
            None => self.stats.jwt_cache_miss.inc(),
        }
        known
    }

    /// Keeps a good token.
    pub(crate) fn keep(&self, text: &str, token: &Rc<Token>) {
        let Some(tokens) = &self.tokens else { return };
        let mut tokens = tokens.borrow_mut();
        if text.len() > tokens.longest || tokens.kept.contains_key(text) {
            return;
        }
        if tokens.order.len() >= tokens.size
            && let Some(oldest) = tokens.order.pop_front()
        {
            tokens.kept.remove(&oldest);
        }
        let text: Arc<str> = text.into();
        tokens.order.push_back(Arc::clone(&text));
        tokens.kept.insert(text, Rc::clone(token));
    }
}

async fn run_fetch<U: Upstreams>(
    provider: Weak<Provider>,
    caller: Rc<Caller<U>>,
    fetch: Rc<Fetch>,
) {
    let remote = provider.upgrade().and_then(|it| it.remote.clone());
    let Some(remote) = remote else { return };
    let result = get(&remote, &caller).await;
    if let Some(provider) = provider.upgrade() {
        provider.finish(&fetch, result);
    }
}

/// Fetches before anybody asks, for as long as the provider is there.
async fn keep_fetching<U: Upstreams>(
    provider: Weak<Provider>,
    caller: Rc<Caller<U>>,
    pause: Duration,
) {
    loop {
        let Some(held) = provider.upgrade() else {
            return;
        };
        let cache = held.remote.as_ref().map_or(pause, |remote| remote.cache);
        let fetched = held.fetch(&caller).await;
        drop(held);
        let wait = match fetched {
            Ok(_) if cache > AHEAD * 2 => cache - AHEAD,
            Ok(_) => cache,
            Err(_) => pause,
        };
        tokio::time::sleep(wait.max(Duration::from_millis(100))).await;
    }
}

/// Gets a key set, with further tries.
async fn get<U: Upstreams>(remote: &RemoteJwks, caller: &Caller<U>) -> Result<Jwks, Status> {
    let mut backoff = remote.backoff;
    for left in (0..=remote.retries).rev() {
        match get_once(remote, caller).await {
            Ok(text) => {
                let text = std::str::from_utf8(&text).map_err(|_| Status::JwksParseError);
                return text.and_then(Jwks::parse).map_err(|status| {
                    tracing::warn!(uri = %remote.service.path, %status, "fetched keys cannot be used");
                    Status::JwksFetch
                });
            }
            Err(reason) => {
                tracing::warn!(cluster = %remote.service.cluster, reason, "keys could not be fetched");
            }
        }
        if left > 0 {
            tokio::time::sleep(backoff).await;
            backoff = backoff.saturating_mul(2).min(Duration::from_secs(30));
        }
    }
    Err(Status::JwksFetch)
}

async fn get_once<U: Upstreams>(remote: &RemoteJwks, caller: &Caller<U>) -> Result<Bytes, String> {
    let service = &remote.service;
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from(service.path.clone());
    let headers = request.headers_mut();
    headers.insert(header::HOST, service.authority.clone());
    // As Envoy says; some servers answer nobody who says nothing.
    headers.insert(header::USER_AGENT, HeaderValue::from_static("Go-browser"));
    for (name, value) in &service.headers {
        headers.append(name.clone(), value.clone());
    }
    // A limit of zero is none in Envoy; a request that waits for ever is of no use to anybody.
    let timeout = match service.timeout {
        zero if zero.is_zero() => Duration::from_secs(60),
        timeout => timeout,
    };
    let answer = caller
        .http(&service.cluster, request, timeout, MAX_JWKS)
        .await;
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status() {
        http::StatusCode::OK => Ok(answer.into_body()),
        status => Err(format!("answered {status}")),
    }
}
