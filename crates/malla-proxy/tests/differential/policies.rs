//! Istio's security policies as the control plane translates them, decided by both proxies: every policy of `policies.yaml`
//! has a listener of its own, and every request of it is sent to each.
//!
//! `policies.txt` holds the decisions; `UPDATE_EXPECT=1` writes it anew.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use expect_test::expect_file;
use malla_api::lower::{assemble, kubernetes, mesh_config};
use malla_api::{Config, Kind, lower};
use malla_model::mesh::MeshParts;
use malla_model::{Mesh, MeshSettings};
use malla_translate::{NodeKind, NodeView, Resources, translate};
use malla_xds_proto::json;
use serde_json::{Map, Value, json};

use crate::backend;
use crate::certificates::{client, write_certificates};
use crate::lab::{Lab, show};
use crate::ports::free_port;
use crate::wire::{comparable, exchange, exchange_tls};

const FILE: &str = include_str!("policies.yaml");
/// 2100 and 2001.
const FUTURE: u64 = 4_102_444_800;
const PAST: u64 = 1_000_000_000;

/// Signs tokens.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        let mut claims = claims.clone();
        let expires = claims["exp"].as_str().map_or(FUTURE, |_| PAST);
        claims["exp"] = expires.into();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA"})), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// An authorizer that allows what says `x-allow: yes`, and a server of keys.
fn helper(jwks: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let jwks = jwks.clone();
            std::thread::spawn(move || {
                while let Some(request) = backend::read(&stream) {
                    let path = request.line.split(' ').nth(1).unwrap_or_default();
                    let allowed = backend::header(&request, "x-allow") == "yes";
                    let (status, more, body) = match (path, allowed) {
                        ("/keys", _) => ("200 OK", String::new(), &*jwks),
                        (_, true) => ("200 OK", format!("x-checked: {path}\r\n"), ""),
                        (_, false) => ("403 Forbidden", "x-denied-by: helper\r\n".to_owned(), "no"),
                    };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if (&stream).write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// A mesh of those objects; policies without a name get one.
fn mesh(mesh_config: &Value, objects: &[Value]) -> Mesh {
    let settings = mesh_config::lower(&mesh_config.to_string(), &MeshSettings::default()).unwrap();
    assert_eq!(settings.not_honoured, []);
    let mut parts = MeshParts {
        settings: settings.value,
        ..MeshParts::default()
    };
    let mut configs: Vec<Config> = Vec::new();
    for (at, object) in objects.iter().enumerate() {
        let mut object = object.clone();
        if object["metadata"].is_null() {
            object["metadata"] = json!({"name": format!("p{at}"), "namespace": "base"});
        }
        let kind = object["kind"].as_str().unwrap();
        if kind == "Service" {
            let service = serde_json::from_value(object).unwrap();
            let service = kubernetes::service(&service, &parts.settings);
            parts.services.push(service.into());
            continue;
        }
        let kind = Kind::parse(kind).unwrap();
        let metadata = serde_json::from_value(object["metadata"].clone()).unwrap();
        let lowered = lower(kind, &metadata, &object["spec"], &parts.settings).unwrap();
        configs.push(lowered.value);
    }
    assemble::add(&mut parts, &configs);
    Mesh::new(parts)
}

/// The last HTTP filters of a listener: those for plain text.
fn filters(resources: &Resources, listener: &str) -> Value {
    let mut listeners = resources.listeners.iter();
    let found = listeners.find(|it| &*it.name == listener);
    let found = json::print_any(&found.unwrap().body);
    let chains = found["filter_chains"].as_array().unwrap().iter();
    let mut managers = chains
        .flat_map(|chain| chain["filters"].as_array().unwrap())
        .map(|filter| &filter["typed_config"])
        .filter(|config| config["http_filters"].is_array());
    managers.next_back().unwrap()["http_filters"].clone()
}

/// Every request to the application `backend`.
fn to_backend() -> Value {
    json!({"virtual_hosts": [{
        "name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
    }]})
}

fn listener(name: &str, http_filters: &Value, routes: &Value) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": format!("{{port:{name}}}")}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "normalize_path": true,
            "http_filters": http_filters,
            "route_config": routes,
        }}]}],
    })
}

fn cluster(name: &str, port: u16) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]},
    })
}

/// The request's bytes; `token: {…}` are claims that are signed, `broken: {…}` are signed by somebody else.
fn bytes(request: &Value, issuer: &Issuer) -> String {
    let text = |name: &str, default: &str| request[name].as_str().unwrap_or(default).to_owned();
    let (line, host) = (text("send", "GET /"), text("host", "a.example.com"));
    let mut out = format!("{line} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        out.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap()));
    }
    let place = text("in", "authorization: Bearer ");
    if request["token"].is_object() {
        out.push_str(&format!("{place}{}\r\n", issuer.token(&request["token"])));
    }
    if request["broken"].is_object() {
        let other = Issuer::new();
        out.push_str(&format!("{place}{}\r\n", other.token(&request["broken"])));
    }
    if line.starts_with("POST") {
        out.push_str("content-length: 0\r\n");
    }
    out + "\r\n"
}

/// Starts both; ports are numbers, not texts.
fn start<'n>(bootstrap: &Value, listeners: impl Iterator<Item = &'n String>) -> Lab {
    let mut template = bootstrap.to_string();
    for name in listeners {
        let port = format!("{{port:{name}}}");
        template = template.replace(&format!("\"{port}\""), &port);
    }
    Lab::start(&template, &[])
}

/// Sends every request to one listener of both: the statuses, and what differs.
fn tried(
    lab: &Lab,
    policy: &str,
    requests: &Map<String, Value>,
    issuer: &Issuer,
) -> (String, Vec<String>) {
    let mut statuses = format!("{policy}\n");
    let mut different = Vec::new();
    for (name, request) in requests {
        let sent = bytes(request, issuer);
        let [envoy, malla] =
            [&lab.envoy, &lab.malla].map(|side| comparable(exchange(side.address(policy), &sent)));
        statuses.push_str(&format!("  {} {name}\n", envoy.status));
        let (envoy, malla) = (show(&envoy), show(&malla));
        if envoy != malla {
            different.push(format!(
                "{policy}: {name}\n--- Envoy\n{envoy}--- Malla\n{malla}"
            ));
        }
    }
    (statuses, different)
}

#[test]
fn both_proxies_decide_alike() {
    let issuer = Issuer::new();
    let helper = helper(issuer.jwks());
    let text = FILE.replace("$jwks", &issuer.jwks().replace('"', "\\\""));
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    let policies = file["policies"].as_object().unwrap();
    let shared: Vec<Value> = file["shared"].as_array().unwrap().clone();
    let listeners: Vec<Value> = policies
        .iter()
        .map(|(name, own)| {
            let objects = [&shared[..], &own.as_array().unwrap()[..]].concat();
            let node = NodeView::new(NodeKind::Sidecar, "app", "base", [10, 1, 0, 1].into());
            let resources = translate(&mesh(&file["meshConfig"], &objects), &node);
            listener(name, &filters(&resources, "virtualInbound"), &to_backend())
        })
        .collect();
    let in_mesh = |port: u16| format!("outbound|{port}||helper.base.svc.cluster.local");
    let bootstrap = json!({"static_resources": {
        "listeners": listeners,
        "clusters": [
            cluster("backend", backend::start().port()),
            cluster(&in_mesh(80), helper.port()),
            cluster(&in_mesh(81), free_port()),
        ],
    }});
    let lab = start(&bootstrap, policies.keys());
    let requests = file["requests"].as_object().unwrap();
    let (mut decided, mut different) = (String::new(), Vec::new());
    std::thread::scope(|scope| {
        // Most of an exchange is waiting.
        let tried: Vec<_> = policies
            .keys()
            .map(|policy| scope.spawn(|| tried(&lab, policy, requests, &issuer)))
            .collect();
        for tried in tried {
            let (statuses, differences) = tried.join().unwrap();
            decided.push_str(&statuses);
            different.extend(differences);
        }
    });
    let count = different.len();
    assert!(
        different.is_empty(),
        "{count} differ\n{}",
        different.join("\n")
    );
    assert!(policies.len() * requests.len() >= 200);
    expect_file!["policies.txt"].assert_eq(&decided);
}

const GATEWAY: &str = "
- kind: Gateway
  spec: {selector: {}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
  metadata: {name: gw, namespace: base}
- kind: RequestAuthentication
  spec: {jwtRules: [{issuer: idp, jwks: \"$jwks\"}]}
- kind: VirtualService
  spec:
    hosts: ['*']
    gateways: [gw]
    http:
    - match: [{headers: {'@request.auth.claims.group': {exact: admins}}}]
      directResponse: {status: 201}
    - match: [{headers: {'@request.auth.claims[realm][roles]': {prefix: own}}, withoutHeaders: {'@request.auth.claims.sub': {exact: mallory}}}]
      directResponse: {status: 202}
    - match: [{headers: {'@request.auth.claims.scope': {regex: 'wr.*'}}}]
      directResponse: {status: 203}
    - directResponse: {status: 204}
";

#[test]
fn both_proxies_route_by_claims() {
    let issuer = Issuer::new();
    let text = GATEWAY.replace("$jwks", &issuer.jwks().replace('"', "\\\""));
    let objects: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    let node = NodeView::new(NodeKind::Router, "gw", "base", [10, 1, 0, 1].into());
    let resources = translate(&mesh(&json!({}), &objects), &node);
    let mut routes = resources.routes.iter();
    let routes = routes.find(|it| &*it.name == "http.80").unwrap();
    let mut routes = json::print_any(&routes.body);
    routes.as_object_mut().unwrap().remove("@type");
    let name = "gateway".to_owned();
    let listener = listener(&name, &filters(&resources, "0.0.0.0_80"), &routes);
    let bootstrap = json!({"static_resources": {"listeners": [listener]}});
    let lab = start(&bootstrap, std::iter::once(&name));
    for (request, want) in [
        (json!({}), "204"),
        (json!({"token": {"iss": "idp", "group": "admins"}}), "201"),
        (
            json!({"token": {"iss": "idp", "group": ["users", "admins"]}}),
            "201",
        ),
        (json!({"token": {"iss": "idp", "group": "users"}}), "204"),
        (
            json!({"token": {"iss": "idp", "realm": {"roles": ["a", "owner"]}}}),
            "202",
        ),
        (
            json!({"token": {"iss": "idp", "sub": "mallory", "realm": {"roles": ["owner"]}}}),
            "204",
        ),
        (
            json!({"token": {"iss": "idp", "scope": "read write"}}),
            "203",
        ),
        (json!({"broken": {"iss": "idp", "group": "admins"}}), "401"),
    ] {
        let answer = lab.check(&name, &bytes(&request, &issuer));
        assert_eq!(answer.status, want, "{request}");
    }
}

/// TLS that asks for a client's certificate.
fn secured(mut listener: Value, folder: &Path) -> Value {
    let file = |name: &str| json!({"filename": folder.join(name)});
    listener["filter_chains"][0]["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": file("server.pem"), "private_key": file("server.key")}],
            "validation_context": {"trusted_ca": file("ca.pem")},
        },
    }});
    listener["listener_filters"] = json!([{"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
    listener
}

/// A rule, whether it allows `cluster.local/ns/base/sa/client`, and whether it allows a certificate without identity.
const IDENTITIES: [(&str, bool, bool); 18] = [
    ("{}", true, true),
    ("{from: [{source: {principals: ['*']}}]}", true, true),
    (
        "{from: [{source: {principals: [cluster.local/ns/base/sa/client]}}]}",
        true,
        false,
    ),
    (
        "{from: [{source: {principals: [cluster.local/ns/base/sa/clien]}}]}",
        false,
        false,
    ),
    (
        "{from: [{source: {principals: ['*/sa/client']}}]}",
        true,
        false,
    ),
    (
        "{from: [{source: {principals: ['cluster.local/ns/base/*']}}]}",
        true,
        false,
    ),
    (
        "{from: [{source: {notPrincipals: ['cluster.local/*']}}]}",
        false,
        true,
    ),
    ("{from: [{source: {namespaces: [base]}}]}", true, false),
    (
        "{from: [{source: {namespaces: ['ba*', other]}}]}",
        true,
        false,
    ),
    ("{from: [{source: {namespaces: [bas]}}]}", false, false),
    ("{from: [{source: {notNamespaces: [base]}}]}", false, true),
    (
        "{from: [{source: {serviceAccounts: [client]}}]}",
        true,
        false,
    ),
    (
        "{from: [{source: {serviceAccounts: [other/client]}}]}",
        false,
        false,
    ),
    (
        "{from: [{source: {trustDomains: [cluster.local]}}]}",
        true,
        false,
    ),
    (
        "{when: [{key: source.trustDomain, notValues: ['cluster*']}]}",
        false,
        true,
    ),
    (
        "{when: [{key: source.serviceAccount, values: [base/client]}]}",
        true,
        false,
    ),
    (
        "{when: [{key: source.namespace, values: [base]}, {key: source.principal, notValues: ['*/sa/client']}]}",
        false,
        false,
    ),
    (
        "{when: [{key: connection.sni, values: ['*.test'], notValues: [x.bad.test]}]}",
        true,
        true,
    ),
];

#[test]
fn both_proxies_know_identities() {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let mut names = Vec::new();
    let mut listeners = Vec::new();
    for (at, (rule, ..)) in IDENTITIES.iter().enumerate() {
        let text = format!("[{{kind: AuthorizationPolicy, spec: {{rules: [{rule}]}}}}]");
        let objects: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
        let node = NodeView::new(NodeKind::Sidecar, "app", "base", [10, 1, 0, 1].into());
        let resources = translate(&mesh(&json!({}), &objects), &node);
        let name = format!("rule-{at}");
        let plain = listener(&name, &filters(&resources, "virtualInbound"), &to_backend());
        listeners.push(secured(plain, folder.path()));
        names.push(name);
    }
    let backend = cluster("backend", backend::start().port());
    let bootstrap = json!({"static_resources": {"listeners": listeners, "clusters": [backend]}});
    let lab = start(&bootstrap, names.iter());
    for (name, (rule, of_client, of_bare)) in names.iter().zip(IDENTITIES) {
        for (identity, allowed) in [("client", of_client), ("bare", of_bare)] {
            let config = Arc::new(client(folder.path(), Some(identity)));
            let sent = bytes(&json!({}), &Issuer::new());
            let want = if allowed { "200" } else { "403" };
            for side in [&lab.envoy, &lab.malla] {
                let answer = exchange_tls(side.address(name), &config, "server.test", &sent);
                assert_eq!(answer.status, want, "{} {identity}: {rule}", side.name);
            }
        }
    }
}
