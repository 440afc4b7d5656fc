//! Pools, breakers and passive health over real sockets.
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::listener::Listener;
use malla_runtime::drain::Drain;
use malla_xds_proto::json::from_yaml;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use super::{Clusters, Handle, WorkerClusters};
use crate::connection::{Connection, End};
use crate::http::body::RequestBody;
use crate::live::Live;
use crate::telemetry::stats::Registry;
use crate::tls::TlsSetup;
use crate::upstream::pool::READ_AHEAD;
use crate::upstream::{Attempt, Choice, ClusterHandle, ResetKind, SendError, Upstreams};

/// A scripted HTTP server.
struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Requests wait here: one permit each.
    gate: Arc<Semaphore>,
    status: Arc<std::sync::atomic::AtomicU16>,
    /// Closes every connection now.
    close: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Backend {
    async fn start(h2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let status = Arc::new(std::sync::atomic::AtomicU16::new(200));
        let close = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let shared = (
            Arc::clone(&connections),
            Arc::clone(&gate),
            Arc::clone(&status),
            Arc::clone(&close),
        );
        tasks.spawn(async move {
            let (connections, gate, status, close) = shared;
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (gate, status, close) =
                    (Arc::clone(&gate), Arc::clone(&status), Arc::clone(&close));
                open.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (gate, status) = (Arc::clone(&gate), Arc::clone(&status));
                        async move {
                            let version = request.version();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            gate.acquire().await.unwrap().forget();
                            let status =
                                StatusCode::from_u16(status.load(Ordering::SeqCst)).unwrap();
                            let text = format!("{version:?} {}", body.len());
                            let response = Response::builder()
                                .status(status)
                                .body(Full::new(Bytes::from(text)));
                            Ok::<_, Infallible>(response.unwrap())
                        }
                    });
                    let io = TokioIo::new(stream);
                    let closed = close.notified();
                    if h2 {
                        let serving =
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(io, service);
                        tokio::select! { _ = serving => {}, () = closed => {} }
                    } else {
                        let serving = hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service);
                        tokio::select! { _ = serving => {}, () = closed => {} }
                    }
                });
            }
        });
        Self {
            address,
            connections,
            gate,
            status,
            close,
            _tasks: tasks,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// From now on so many requests are answered.
    fn answer_only(&self, count: usize) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
        self.gate.add_permits(count);
    }
}

struct Bench {
    live: Live,
    clusters: WorkerClusters,
    connection: Connection,
    _drain: Drain,
}

impl Bench {
    fn new() -> Self {
        let live = Live::default();
        let provider = malla_identity::default_provider();
        let setup = TlsSetup::new(&provider, Arc::new(|_| None));
        let clusters = Clusters::new(tokio::runtime::Handle::current(), setup, live.clone());
        let drain = Drain::new();
        let clusters = WorkerClusters::new(
            clusters,
            live.clone(),
            Registry::default().worker(0),
            drain.watch(),
            0,
        );
        Self {
            live,
            clusters,
            connection: connection(),
            _drain: drain,
        }
    }

    fn put(&self, yaml: &str) {
        let cluster = Cluster::from_proto(from_yaml(yaml).unwrap()).unwrap();
        self.live
            .update_now(|draft| draft.put_cluster(cluster.value));
    }

    fn put_endpoints(&self, addresses: &[SocketAddr]) {
        let set = EndpointSet::from_proto(from_yaml(&assignment(addresses)).unwrap()).unwrap();
        self.live.update_now(|draft| draft.put_endpoints(set.value));
    }

    fn handle(&self) -> Handle {
        self.clusters
            .cluster(&self.live.load_full(), "web")
            .unwrap()
    }

    fn choice(&self) -> Choice<'_> {
        Choice::any(&self.connection)
    }

    async fn get(&self) -> Result<(StatusCode, String, Attempt), SendError> {
        let request = Request::get("/x")
            .header("host", "web.test")
            .body(RequestBody::empty())
            .unwrap();
        let mut attempt = Attempt::default();
        let response = self
            .handle()
            .send(request, &self.choice(), &mut attempt)
            .await?;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok((status, String::from_utf8(body.to_vec()).unwrap(), attempt))
    }
}

fn connection() -> Connection {
    let listener = r#"
        name: in
        address: { socket_address: { address: 127.0.0.1, port_value: 1 } }
        filter_chains: [ { filters: [] } ]"#;
    let listener = Arc::new(
        Listener::from_proto(from_yaml(listener).unwrap())
            .unwrap()
            .value,
    );
    let own: SocketAddr = "127.0.0.1:1".parse().unwrap();
    Connection {
        id: 0,
        chain: Arc::clone(&listener.chains[0]),
        listener,
        local: End::Ip(own),
        direct_local: End::Ip(own),
        local_restored: false,
        remote: End::Ip(own),
        direct_remote: End::Ip(own),
        server_name: None,
        tls: None,
        accepted: Instant::now(),
        accepted_at: std::time::SystemTime::now(),
        origin: None,
        socket: None,
        state: None,
    }
}

fn assignment(addresses: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = addresses
        .iter()
        .map(|a| format!("{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}", a.ip(), a.port()))
        .collect();
    format!(
        "{{ cluster_name: web, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}",
        endpoints.join(", ")
    )
}

fn cluster(addresses: &[SocketAddr], more: &str) -> String {
    format!(
        "{{ name: web, type: STATIC, connect_timeout: 5s, load_assignment: {}{more} }}",
        assignment(addresses)
    )
}

const H2: &str = r#", typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }"#;

/// Runs a test on a worker's kind of runtime.
fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(30), test)
            .await
            .expect("the test took too long");
    });
}

/// Waits for a condition.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn one_connection_serves_request_after_request() {
    on_worker(async {
        let (backend, bench) = (Backend::start(false).await, Bench::new());
        bench.put(&cluster(&[backend.address], ""));
        for turn in 0..5 {
            let (status, body, attempt) = bench.get().await.unwrap();
            assert_eq!((status.as_u16(), body.as_str()), (200, "HTTP/1.1 0"));
            assert_eq!(attempt.reused, turn > 0);
            assert_eq!(attempt.remote, Some(backend.address));
        }
        assert_eq!(backend.connections(), 1);
        let stats = bench.handle();
        assert_eq!(stats.stats().upstream_cx_total.get(), 1);
        assert_eq!(stats.stats().upstream_rq_active.get(), 0);
    });
}

#[test]
fn http2_requests_share_a_connection() {
    on_worker(async {
        let (backend, bench) = (Backend::start(true).await, Bench::new());
        bench.put(&cluster(&[backend.address], H2));
        let answers = futures_util::future::join_all((0..20).map(|_| bench.get())).await;
        for answer in answers {
            assert_eq!(answer.unwrap().1, "HTTP/2.0 0");
        }
        assert_eq!(backend.connections(), 1);
    });
}

#[test]
fn a_refused_connection_is_told_in_envoys_words() {
    on_worker(async {
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let bench = Bench::new();
        bench.put(&cluster(&[free], ""));
        let error = bench.get().await.unwrap_err();
        let reason = "delayed connect error: Connection refused".to_owned();
        assert_eq!(
            error,
            SendError::Connect {
                reason,
                timeout: false
            }
        );
        let handle = bench.handle();
        assert_eq!(handle.stats().upstream_cx_connect_fail.get(), 1);
        assert_eq!(handle.stats().upstream_cx_active.get(), 0);
    });
}

#[test]
fn requests_beyond_the_breakers_overflow() {
    on_worker(async {
        let (backend, bench) = (Backend::start(false).await, Bench::new());
        backend.answer_only(0);
        let limits = ", circuit_breakers: { thresholds: [ { max_connections: 1, max_pending_requests: 1 } ] }";
        bench.put(&cluster(&[backend.address], limits));
        let done = RefCell::new(Vec::new());
        let one = async |name: &'static str| {
            let answer = bench.get().await;
            done.borrow_mut().push((name, answer.is_ok()));
            answer.map(|_| ())
        };
        let handle = bench.handle();
        let second = async {
            // Until its connection stands, the first counts as pending itself.
            until("the first is under way", || {
                handle.stats().upstream_rq_active.get() == 1
            })
            .await;
            one("second").await
        };
        let third = async {
            until("the first is under way, the second waits", || {
                handle.stats().upstream_rq_active.get() == 1
                    && handle.stats().upstream_rq_pending_active.get() == 1
            })
            .await;
            assert_eq!(one("third").await, Err(SendError::Overflow));
            backend.answer_only(2);
        };
        let (first, second, ()) = tokio::join!(one("first"), second, third);
        assert_eq!((first, second), (Ok(()), Ok(())));
        assert_eq!(
            *done.borrow(),
            [("third", false), ("first", true), ("second", true)]
        );
        assert_eq!(backend.connections(), 1);
        assert_eq!(handle.stats().upstream_rq_pending_overflow.get(), 1);
    });
}

#[test]
fn a_connection_that_died_idle_is_not_used() {
    on_worker(async {
        let (backend, bench) = (Backend::start(false).await, Bench::new());
        bench.put(&cluster(&[backend.address], ""));
        bench.get().await.unwrap();
        backend.close.notify_waiters();
        let handle = bench.handle();
        until("the close is seen", || {
            handle.stats().upstream_cx_active.get() == 0
        })
        .await;
        let (status, _, attempt) = bench.get().await.unwrap();
        assert_eq!((status.as_u16(), attempt.reused), (200, false));
        assert_eq!(backend.connections(), 2);
    });
}

#[test]
fn a_connection_that_breaks_during_a_request_is_a_reset() {
    on_worker(async {
        let (backend, bench) = (Backend::start(false).await, Bench::new());
        backend.answer_only(0);
        bench.put(&cluster(&[backend.address], ""));
        let handle = bench.handle();
        let cut = async {
            until("the request is under way", || {
                handle.stats().upstream_rq_active.get() == 1
            })
            .await;
            until("the server has it", || {
                handle.stats().upstream_cx_tx_bytes_total.get() > 0
            })
            .await;
            backend.close.notify_waiters();
        };
        let (answer, ()) = tokio::join!(bench.get(), cut);
        let Err(SendError::Reset(error)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (error.kind, error.before_request),
            (ResetKind::ConnectionTermination, false)
        );
        assert_eq!(
            handle.stats().upstream_rq_active.get(),
            0,
            "the slot is free again"
        );
    });
}

#[test]
fn a_dropped_request_frees_what_it_held() {
    on_worker(async {
        for (h2, more) in [(false, ""), (true, H2)] {
            let (backend, bench) = (Backend::start(h2).await, Bench::new());
            backend.answer_only(0);
            bench.put(&cluster(&[backend.address], more));
            let handle = bench.handle();
            let waiting = timeout(Duration::from_millis(300), bench.get()).await;
            assert!(waiting.is_err());
            until("the slots are free", || {
                handle.stats().upstream_rq_active.get() == 0
            })
            .await;
            // The abandoned request may still be in the server and take an answer.
            backend.answer_only(2);
            assert_eq!(bench.get().await.unwrap().0, 200);
            // HTTP/1 had to give the connection up, HTTP/2 only the stream.
            assert_eq!(backend.connections(), if h2 { 1 } else { 2 });
        }
    });
}

#[test]
fn endpoints_change_without_a_new_cluster() {
    on_worker(async {
        let (first, second, bench) = (
            Backend::start(false).await,
            Backend::start(false).await,
            Bench::new(),
        );
        bench.put("{ name: web, type: EDS, connect_timeout: 5s, eds_cluster_config: { eds_config: { ads: {} } } }");
        assert_eq!(bench.get().await.unwrap_err(), SendError::NoHealthyHost);
        bench.put_endpoints(&[first.address]);
        assert_eq!(bench.get().await.unwrap().2.remote, Some(first.address));
        bench.put_endpoints(&[second.address]);
        assert_eq!(bench.get().await.unwrap().2.remote, Some(second.address));
        bench.clusters.sweep_once();
        let handle = bench.handle();
        until("the old connection is closed", || {
            handle.stats().upstream_cx_active.get() == 1
        })
        .await;
    });
}

#[test]
fn a_failing_host_is_ejected_and_the_other_serves() {
    on_worker(async {
        let (good, bad, bench) = (
            Backend::start(false).await,
            Backend::start(false).await,
            Bench::new(),
        );
        bad.status.store(500, Ordering::SeqCst);
        let outlier = ", lb_policy: ROUND_ROBIN, outlier_detection: { consecutive_5xx: 3, max_ejection_percent: 50, interval: 3600s }";
        bench.put(&cluster(&[good.address, bad.address], outlier));
        let mut failures = 0;
        for _ in 0..40 {
            failures += usize::from(bench.get().await.unwrap().0 == 500);
        }
        assert_eq!(failures, 3, "three in a row and no more");
    });
}

#[test]
fn connections_retire_after_their_share_of_requests() {
    on_worker(async {
        for (h2, more) in [
            (false, ", max_requests_per_connection: 2".to_owned()),
            (true, H2.replace("explicit_http", "common_http_protocol_options: { max_requests_per_connection: 2 }, explicit_http")),
        ] {
            let (backend, bench) = (Backend::start(h2).await, Bench::new());
            bench.put(&cluster(&[backend.address], &more));
            for _ in 0..6 {
                bench.get().await.unwrap();
            }
            assert_eq!(backend.connections(), 3);
        }
    });
}

#[test]
fn hop_by_hop_fields_do_not_reach_http2() {
    on_worker(async {
        let (backend, bench) = (Backend::start(true).await, Bench::new());
        bench.put(&cluster(&[backend.address], H2));
        let request = Request::get("/x")
            .version(Version::HTTP_10)
            .header("host", "a")
            .header("connection", "close");
        let mut attempt = Attempt::default();
        let (handle, choice) = (bench.handle(), bench.choice());
        let response = handle
            .send(
                request.body(RequestBody::empty()).unwrap(),
                &choice,
                &mut attempt,
            )
            .await;
        assert_eq!(response.unwrap().version(), Version::HTTP_2);
        assert!(attempt.request_sent.is_some() && attempt.first_byte >= attempt.request_sent);
    });
}

#[test]
fn a_send_stays_within_its_size() {
    on_worker(async {
        let bench = Bench::new();
        bench.put(&cluster(&["127.0.0.1:9".parse().unwrap()], ""));
        let (handle, choice, mut attempt) = (bench.handle(), bench.choice(), Attempt::default());
        let request = Request::get("/").body(RequestBody::empty()).unwrap();
        let future = handle.send(request, &choice, &mut attempt);
        assert!(
            size_of_val(&future) < 3 * 1024,
            "{} bytes",
            size_of_val(&future)
        );
    });
}

#[test]
fn no_more_of_an_answer_is_read_than_is_to_be_held() {
    const BODY: usize = 8 << 20;
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = Bench::new();
        bench.put(&cluster(&[listener.local_addr().unwrap()], ""));
        let backend = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.write_all(&vec![b'x'; BODY]).await.unwrap();
            stream
        };
        let request = Request::get("/x").header("host", "web.test");
        let request = request.body(RequestBody::empty()).unwrap();
        let (handle, choice, mut attempt) = (bench.handle(), bench.choice(), Attempt::default());
        let reading = async {
            let answer = handle.send(request, &choice, &mut attempt).await.unwrap();
            let (mut body, mut largest, mut all) = (answer.into_body(), 0, 0);
            while let Some(frame) = body.frame().await {
                let length = frame.unwrap().into_data().unwrap().len();
                (largest, all) = (largest.max(length), all + length);
            }
            (largest, all)
        };
        let (_stream, (largest, all)) = futures_util::join!(backend, reading);
        assert_eq!(all, BODY);
        assert!(largest <= 2 * READ_AHEAD, "{largest} bytes at once");
    });
}
