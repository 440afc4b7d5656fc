//! Calls written as text, and what became of them as text.

#![allow(dead_code)] // each test file uses its own part

use std::net::{IpAddr, SocketAddr};

use malla_model::{Host, Mesh};
use malla_translate::Resources;
use malla_translate::simulate::{Call, Entry, Hello, Request, Trace, Verdict, walk};

/// Reads `METHOD http://host:port/path` and then `name: value` headers, separated by commas.
/// `tcp://host:port` has no request; `https://` and `tls://` start with a handshake for that host.
/// `@address` at the end is where the call goes, else where the host resolves to.
#[track_caller]
pub(crate) fn call(mesh: &Mesh, text: &str) -> Call {
    let (text, address) = text.split_once('@').unwrap_or((text, ""));
    let mut parts = text.split(", ");
    let line = parts.next().unwrap().trim();
    let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let secure = matches!(scheme, "https" | "tls");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().unwrap()),
        None => (authority, if secure { 443 } else { 80 }),
    };
    let ip = match address.trim() {
        "" => resolve(mesh, host),
        address => address.parse().unwrap(),
    };
    let http = matches!(scheme, "http" | "https" | "h2");
    Call {
        from: [10, 1, 0, 99].into(),
        to: SocketAddr::new(ip, port),
        tls: secure.then(|| Hello {
            sni: host.to_owned(),
            alpn: vec!["h2".into(), "http/1.1".into()],
            peer: None,
        }),
        request: http.then(|| Request {
            method: method.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: parts
                .map(|header| header.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            http2: scheme == "h2",
            claims: None,
        }),
    }
}

/// Names resolve as cluster DNS would from the namespace `base`; others are somewhere outside.
fn resolve(mesh: &Mesh, host: &str) -> IpAddr {
    if let Ok(ip) = host.parse() {
        return ip;
    }
    let full = [
        "",
        ".base.svc.cluster.local",
        ".svc.cluster.local",
        ".cluster.local",
    ];
    full.iter()
        .filter_map(|suffix| mesh.service(&Host::new(&format!("{host}{suffix}")), "base"))
        .find_map(|service| {
            let pod = || {
                service.endpoints.iter().find_map(|e| match e.address {
                    malla_model::workload::Address::Ip(ip) => Some(ip),
                    _ => None,
                })
            };
            service.virtual_ips().next().or_else(pod)
        })
        .unwrap_or(IpAddr::from([203, 0, 113, 7]))
}

/// A call of a peer with mutual TLS of the mesh.
pub(crate) fn by_peer(mut call: Call, peer: &str) -> Call {
    call.tls = Some(Hello {
        sni: "outbound_.80_._.x".into(),
        alpn: vec!["istio".into()],
        peer: Some(format!("spiffe://cluster.local/{peer}")),
    });
    call
}

/// A request with a good token that says this.
pub(crate) fn with_claims(mut call: Call, claims: serde_json::Value) -> Call {
    call.request.as_mut().unwrap().claims = Some(claims);
    call
}

#[track_caller]
pub(crate) fn trace(resources: &Resources, entry: Entry, call: &Call) -> Trace {
    walk(resources, entry, call).unwrap_or_else(|e| panic!("{e}"))
}

/// One line: what became of the call.
pub(crate) fn outcome(trace: &Trace) -> String {
    match &trace.verdict {
        Verdict::Closed(why) => format!("closed: {why}"),
        Verdict::Denied {
            policy: Some(policy),
        } => format!("denied by {policy}"),
        Verdict::Denied { policy: None } => "denied: nothing allows it".into(),
        Verdict::Redirect(to) => {
            format!(
                "redirect to {}",
                if to.host_redirect.is_empty() {
                    "https"
                } else {
                    &to.host_redirect
                }
            )
        }
        Verdict::Answer(status) => format!("answer {status}"),
        Verdict::NotFound => "404".into(),
        Verdict::Clusters(shares) => {
            let each = shares.iter().map(|share| {
                let weight = if shares.len() > 1 {
                    format!("{} ", share.weight)
                } else {
                    String::new()
                };
                let missing = if share.exists { "" } else { " (missing)" };
                format!("{weight}{}{missing}", share.cluster)
            });
            each.collect::<Vec<_>>().join(" + ")
        }
    }
}
