//! What the proxy reads: configurations, and the first bytes, paths and headers of strangers.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use malla_proxy::balance::Rng64;
use malla_proxy::connection::{Connection, End, PeerCertificate, TlsInfo};
use malla_proxy::fuzzing;
use malla_proxy::listener::chain::{Facts, Matcher};
use malla_proxy::listener::sniff::{Verdict, inspect_http, inspect_proxy_protocol, inspect_tls};
use malla_proxy::peers::{Peer, decode_peer, decode_preamble};
use malla_proxy::policy::rbac::{Subject, decide};
use malla_proxy::telemetry::access_log::{self, Environment, Source};
use malla_proxy::telemetry::record::{Captured, Record};
use malla_proxy_config::access_log::{AccessLog, Target};
use malla_proxy_config::bootstrap::Bootstrap;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::filter_chain::{FilterChain, NetworkFilter, Terminal};
use malla_proxy_config::format::Format;
use malla_proxy_config::headers::{HeaderEdits, HeaderText};
use malla_proxy_config::http_filter::HttpFilterKind;
use malla_proxy_config::http_manager::RouteSource;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::rbac::Rbac;
use malla_proxy_config::request::RequestView;
use malla_proxy_config::route::RouteConfig;
use malla_proxy_config::route::action::{Action, Target as RouteTarget};
use malla_proxy_config::secret::Secret;
use malla_proxy_config::{Snapshot, bootstrap, snapshot};
use malla_xds_proto::{any, json};
use prost::Message;
use rustls::server::Acceptor;
use tokio::time::Instant;

use crate::input::Input;

/// What a peer tells of itself, in a header or before bytes: whatever it is, it fits into labels.
pub fn peer_metadata(data: &[u8]) {
    for peer in [decode_peer(data), decode_preamble(data)]
        .into_iter()
        .flatten()
    {
        let Peer {
            name,
            namespace,
            workload,
            app,
            version,
            service,
            revision,
            cluster,
        } = peer;
        for text in [
            name, namespace, workload, app, version, service, revision, cluster,
        ] {
            assert!(
                text.len() <= 253 && !text.chars().any(char::is_control),
                "{text:?}"
            );
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        // Expressions of labels come from users.
        let _ = malla_proxy_config::istio_stats::Expression::parse(text);
    }
}

/// A static configuration: what is accepted serves a request.
pub fn bootstrap_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(wire) = json::from_yaml(text) else {
        return;
    };
    let Ok(checked) = Bootstrap::from_proto(wire) else {
        return;
    };
    ask_bootstrap(checked.value);
}

fn ask_bootstrap(bootstrap: bootstrap::Bootstrap) {
    let mut draft = Snapshot::default().draft();
    bootstrap.apply(&mut draft);
    let snapshot = draft.finish();
    for listener in snapshot.listeners() {
        ask_listener(listener);
    }
}

/// A resource as it comes over xDS (its type by the first byte), and a request in the rest of the first line.
pub fn xds_resource(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let request = input.line();
    let body = input.rest();
    let mut draft: snapshot::Draft = Snapshot::default().draft();
    match kind % 5 {
        0 => {
            if let Some(listener) = parsed(body, Listener::from_proto) {
                ask_listener(&listener);
                draft.put_listener(listener);
            }
        }
        1 => {
            if let Some(routes) = parsed(body, RouteConfig::from_proto) {
                ask_routes(&routes, request);
                draft.put_route(routes);
            }
        }
        2 => {
            if let Some(cluster) = parsed(body, Cluster::from_proto) {
                draft.put_cluster(cluster);
            }
        }
        3 => {
            if let Some(endpoints) = parsed(body, EndpointSet::from_proto) {
                assert!(endpoints.iter().count() < 1_000_000);
                draft.put_endpoints(endpoints);
            }
        }
        _ => {
            if let Some(secret) = parsed(body, Secret::from_proto) {
                draft.put_secret(secret);
            }
        }
    }
    let _ = draft.finish();
}

/// A resource that is accepted is accepted again in its canonical form.
fn parsed<M, T>(
    body: &[u8],
    parse: impl Fn(M) -> Result<malla_proxy_config::Checked<T>, malla_proxy_config::Invalid>,
) -> Option<T>
where
    M: Message + prost::Name + Default,
{
    let message = M::decode(body).ok()?;
    let canonical = any::encode(&message);
    let checked = parse(message).ok()?;
    let again = parse(M::decode(&*canonical).expect("we encoded it"));
    assert_eq!(
        again.map(|again| again.warnings).ok().as_ref(),
        Some(&checked.warnings)
    );
    Some(checked.value)
}

fn here() -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::from(([10, 1, 0, 1], 8080)),
        SocketAddr::from(([10, 1, 0, 2], 40_000)),
    )
}

/// A connection of a client that has shown a certificate.
fn connection(listener: &Arc<Listener>, chain: &Arc<FilterChain>) -> Connection {
    let (local, remote) = here();
    let peer = PeerCertificate {
        uri_sans: vec!["spiffe://cluster.local/ns/a/sa/b".into()],
        ..PeerCertificate::default()
    };
    let tls = TlsInfo {
        peer: Some(Arc::new(peer)),
        peer_validated: true,
        ..TlsInfo::default()
    };
    Connection {
        id: 1,
        listener: Arc::clone(listener),
        chain: Arc::clone(chain),
        local: End::Ip(local),
        direct_local: End::Ip(local),
        local_restored: false,
        remote: End::Ip(remote),
        direct_remote: End::Ip(remote),
        origin: None,
        socket: None,
        server_name: Some("web.test".into()),
        tls: Some(tls),
        accepted: Instant::now(),
        accepted_at: SystemTime::UNIX_EPOCH,
        state: None,
    }
}

fn some_listener() -> Arc<Listener> {
    static LISTENER: LazyLock<Arc<Listener>> = LazyLock::new(|| {
        let text = "{name: fuzz, address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{}]}";
        let wire = json::from_yaml(text).expect("YAML of a listener");
        Arc::new(Listener::from_proto(wire).expect("a listener").value)
    });
    Arc::clone(&LISTENER)
}

fn request_headers() -> HeaderMap {
    let fields = [
        ("host", "web.test:80"),
        ("x-a", "1"),
        ("x-a", "\u{e9}"),
        ("cookie", "a=1; b=\"two\"; c"),
        ("user-agent", "fuzz"),
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
        ("content-type", "application/grpc"),
        ("x-request-id", "r"),
    ];
    let field = |(name, value): (&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value.as_bytes()).expect("a header value"),
        )
    };
    fields.into_iter().map(field).collect()
}

/// Lets a connection and a request through a listener.
pub(crate) fn ask_listener(listener: &Listener) {
    let listener = Arc::new(listener.clone());
    for port in [0, 80, 65_535] {
        for filter in &listener.filters {
            let _ = filter
                .disabled
                .as_ref()
                .is_some_and(|disabled| disabled.matches(port));
        }
    }
    if let Ok(matcher) = Matcher::build(listener.chains.iter().map(|chain| &chain.matches)) {
        let (destination, source) = here();
        for (server_name, transport, protocol) in
            [("", "raw_buffer", "http/1.1"), ("web.test", "tls", "h2")]
        {
            let protocols = [protocol.to_owned()];
            let facts = Facts {
                destination,
                source,
                direct_source: source,
                server_name,
                transport,
                application_protocols: &protocols,
            };
            if let Some(found) = matcher.find(&facts) {
                assert!(found < listener.chains.len());
            }
        }
    }
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        let connection = Rc::new(connection(&listener, chain));
        for filter in &chain.filters {
            let NetworkFilter::Rbac(filter) = filter else {
                continue;
            };
            for rules in filter.rules.iter().chain(&filter.shadow) {
                judge(rules, &connection, None);
            }
        }
        match &chain.terminal {
            Terminal::Http(manager) => {
                if let RouteSource::Inline(routes) = &manager.routes {
                    ask_routes(routes, b"");
                }
                let headers = request_headers();
                let view = RequestView {
                    method: &Method::GET,
                    path: "/a/b?c=d#e",
                    scheme: "https",
                    headers: &headers,
                    state: None,
                };
                for filter in &manager.filters {
                    match &filter.kind {
                        HttpFilterKind::Rbac(filter) => {
                            for rules in filter.rules.iter().chain(&filter.shadow) {
                                judge(rules, &connection, Some(&view));
                            }
                        }
                        HttpFilterKind::Fault(fault) => fault.headers.iter().for_each(|one| {
                            one.is_match(&view);
                        }),
                        // The rest asks services, keeps counts or looks on: nothing that can be asked here.
                        HttpFilterKind::Router(_)
                        | HttpFilterKind::Cors
                        | HttpFilterKind::Jwt(_)
                        | HttpFilterKind::ExtAuthz(_)
                        | HttpFilterKind::LocalRateLimit(_)
                        | HttpFilterKind::RateLimit(_)
                        | HttpFilterKind::HeaderMutation(_)
                        | HttpFilterKind::HealthCheck(_)
                        | HttpFilterKind::Buffer(_)
                        | HttpFilterKind::GrpcStats(_)
                        | HttpFilterKind::SetFilterState(_)
                        | HttpFilterKind::GrpcWeb
                        | HttpFilterKind::IstioAlpn
                        | HttpFilterKind::IstioStats(_)
                        | HttpFilterKind::PeerMetadata(_)
                        | HttpFilterKind::Discovered(_) => {}
                    }
                }
                manager
                    .access_logs
                    .iter()
                    .for_each(|log| write_log(log, &connection, &headers));
            }
            Terminal::Tcp(tcp) => tcp
                .access_logs
                .iter()
                .for_each(|log| write_log(log, &connection, &HeaderMap::new())),
            Terminal::Close => {}
        }
    }
}

fn judge(rules: &Rbac, connection: &Connection, request: Option<&RequestView<'_>>) {
    let subject = Subject {
        connection,
        request,
        route: None,
        remote: &connection.remote,
        protocol: request.map(|_| http::Version::HTTP_11),
    };
    let (decision, again) = (decide(rules, &subject), decide(rules, &subject));
    assert_eq!(decision, again);
}

fn write_log(log: &AccessLog, connection: &Rc<Connection>, headers: &HeaderMap) {
    let record = record(connection, headers);
    let source = source(&record, None);
    let taken = access_log::takes(log, &source, &mut Rng64::seeded(7));
    if let (true, Target::Lines { layout, .. }) = (taken, &log.target) {
        access_log::write_line(layout, &source, &mut Vec::new());
    }
}

fn record(connection: &Rc<Connection>, headers: &HeaderMap) -> Record {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
    let mut record = Record::begin(
        Rc::clone(connection),
        Some(http::Version::HTTP_11),
        connection.accepted,
        wall,
    );
    record.method = Some(Method::GET);
    record.path = "/a/b?c=d".parse().ok();
    record.status = Some(StatusCode::OK);
    record.request_headers = Captured::All(Box::new(headers.clone()));
    record
}

fn source<'a>(record: &'a Record, request: Option<&'a HeaderMap>) -> Source<'a> {
    static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| Environment {
        hostname: "fuzz".into(),
        env: Arc::new(|name| (name == "HOME").then(|| "/root".to_owned())),
        zone: jiff::tz::TimeZone::UTC,
        files: access_log::Files::default(),
    });
    Source {
        record,
        environment: &ENVIRONMENT,
        request,
        response: None,
    }
}

/// Sends `METHOD AUTHORITY TARGET` (all optional) through a route table, and does with it what its route says.
pub(crate) fn ask_routes(routes: &RouteConfig, request: &[u8]) {
    let text = String::from_utf8_lossy(request);
    let mut words = text.splitn(3, ' ');
    let method: Method = words
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(Method::GET);
    let authority = words.next().unwrap_or("web.default.svc.cluster.local:80");
    let target = words.next().unwrap_or("/a/b?c=d#e");
    let Some(vhost) = routes.vhost(authority) else {
        return;
    };
    let mut headers = request_headers();
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(http::header::HOST, host);
    }
    for path in [target, "/", "", "/é%2f/../x"] {
        let view = RequestView {
            method: &method,
            path,
            scheme: "http",
            headers: &headers,
            state: None,
        };
        let slowly = vhost
            .routes
            .iter()
            .position(|route| route.matches.is_match(&view, 7));
        assert_eq!(
            vhost.route_index(&view, 7),
            slowly,
            "the index finds what a scan finds"
        );
        let Some(route) = slowly.and_then(|at| vhost.routes.get(at)) else {
            continue;
        };
        for edits in [
            &vhost.request_headers,
            &route.request_headers,
            &route.response_headers,
        ] {
            edit(edits);
        }
        let Action::Forward(forward) = &route.action else {
            continue;
        };
        if path.starts_with('/') {
            let _ = fuzzing::rewritten(&forward.path, path);
        }
        if let RouteTarget::Weighted(weighted) = &forward.target {
            for random in [0, 1, 7, u64::MAX] {
                let found = weighted
                    .pick_index(random)
                    .expect("weights add up to their total");
                assert!(weighted.clusters[found].weight > 0);
            }
        }
    }
}

fn edit(edits: &HeaderEdits) {
    let listener = some_listener();
    let connection = Rc::new(connection(&listener, &Arc::new(FilterChain::closed())));
    let headers = request_headers();
    let record = record(&connection, &headers);
    for add in &edits.add {
        if let HeaderText::Format(format) = &add.value {
            let _ = access_log::header_value(format, &source(&record, Some(&headers)));
        }
    }
}

/// A format of access logs and header values.
pub fn log_format(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(format) = Format::compile(text) else {
        return;
    };
    assert_eq!(Format::compile(text).as_ref(), Ok(&format));
    let listener = some_listener();
    let connection = Rc::new(connection(&listener, &Arc::new(FilterChain::closed())));
    let headers = request_headers();
    let record = record(&connection, &headers);
    for request in [None, Some(&headers)] {
        let mut out = Vec::new();
        access_log::write_text(&format, &source(&record, request), b"-", &mut out);
        let _ = access_log::header_value(&format, &source(&record, request));
    }
}

/// Requests as HTTP/1 and as HTTP/2 frames them: it does not matter how their bytes come.
pub fn framing(data: &[u8]) {
    let (pieces, bytes) = data.split_at(data.len().min(8));
    let whole = fuzzing::cleared(bytes, &[]);
    assert!(whole.0 <= bytes.len());
    assert_eq!(fuzzing::cleared(bytes, pieces), whole);
    let cut = pieces.first().copied().map_or(0, usize::from);
    let known =
        |frames: Vec<(u8, u64)>| frames.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(
        known(fuzzing::http2_frames(bytes, cut)),
        known(fuzzing::http2_frames(bytes, bytes.len()))
    );
}

/// The first bytes of a connection: verdicts are final, and a ClientHello says what rustls says that it says.
pub fn sniff(data: &[u8]) {
    let tls = settled(data, inspect_tls);
    settled(data, inspect_http);
    if let Verdict::Is(header) = settled(data, inspect_proxy_protocol) {
        assert!(header.length <= data.len());
    }
    let mut acceptor = Acceptor::default();
    if acceptor.read_tls(&mut &data[..]).is_err() {
        return;
    }
    if let Ok(Some(accepted)) = acceptor.accept() {
        let theirs = accepted.client_hello();
        let Verdict::Is(ours) = tls else {
            panic!("rustls reads a ClientHello, we say {tls:?}")
        };
        if let Some(name) = theirs.server_name() {
            assert_eq!(ours.server_name, name.to_ascii_lowercase());
        }
        let protocols = theirs.alpn().into_iter().flatten();
        let protocols: Vec<_> = protocols
            .filter_map(|name| std::str::from_utf8(name).ok())
            .collect();
        assert_eq!(ours.alpn, protocols);
    }
}

/// The verdict, after making sure that it does not depend on how the bytes arrive.
fn settled<T: PartialEq + std::fmt::Debug>(
    data: &[u8],
    inspect: impl Fn(&[u8]) -> Verdict<T>,
) -> Verdict<T> {
    let whole = inspect(data);
    let ends = (0..data.len().min(80)).chain((80..data.len()).step_by(97));
    for end in ends {
        let early = inspect(&data[..end]);
        assert!(
            early == Verdict::More || early == whole,
            "{early:?} after {end} bytes, {whole:?} after all"
        );
    }
    whole
}

/// A request's path: normalising twice equals once, and nothing climbs.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(unescaped) = fuzzing::unescape_slashes(text) {
        assert_ne!(unescaped, text);
    }
    let merged = fuzzing::merge_slashes(text);
    assert!(!merged.contains("//"));
    assert_eq!(fuzzing::merge_slashes(&merged), merged);
    let Some(once) = fuzzing::canonical(text) else {
        return;
    };
    assert_eq!(
        fuzzing::canonical(&once).as_ref(),
        Some(&once),
        "normalising twice equals once"
    );
    assert!(once.starts_with('/') && once.is_ascii(), "{once}");
    assert!(
        once.split('/').all(|part| !matches!(part, "." | "..")),
        "{once}"
    );
    if !text.contains('\\') && once.len() > text.len() * 3 + 1 {
        panic!("{text} became {once}");
    }
}

/// Headers of a request (`name: value` lines) through the fields that name hops, clients and admin parameters.
pub fn headers(data: &[u8]) {
    let mut input = Input::new(data);
    let (hops, upgrade) = (u32::from(input.byte()), input.flag());
    let mut headers = HeaderMap::new();
    while !input.is_empty() && headers.len() < 64 {
        let line = input.line();
        let at = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    let _ = fuzzing::last_forwarded(&headers, hops);
    fuzzing::append_forwarded_for(&mut headers, here().1.ip());
    if headers["x-forwarded-for"].to_str().is_ok() {
        assert_eq!(
            fuzzing::last_forwarded(&headers, 0),
            Some(here().1.ip()),
            "the last hop is who we saw"
        );
    }
    fuzzing::hop_by_hop(&mut headers, upgrade);
    let once = headers.clone();
    fuzzing::hop_by_hop(&mut headers, upgrade);
    assert_eq!(headers, once, "what concerns one hop goes at once");
    assert!(!headers.contains_key("transfer-encoding") && !headers.contains_key("keep-alive"));
    let view = RequestView {
        method: &Method::GET,
        path: "/",
        scheme: "http",
        headers: &headers,
        state: None,
    };
    for name in ["a", "", "x"] {
        let _ = (view.cookie(name), view.query_param(name), view.authority());
    }
    if let Some(host) = headers.get("host").and_then(|host| host.to_str().ok()) {
        let bare = malla_proxy_config::route::without_port(host);
        assert!(host.starts_with(bare));
        if let Ok(uri) = host.parse::<http::Uri>() {
            let _ = malla_proxy::admin::Query::parse(&uri);
        }
    }
}
