//! Where keys come from: written in the rule, or fetched by the proxies themselves.
//!
//! Proxies fetch, not the control plane: keys are as fresh as the proxy's own connection allows, nobody can make the
//! control plane call addresses of their choice, and its loss changes nothing. A proxy without keys refuses every token
//! of the issuer; once it has some, it keeps them while the server is away.

use std::collections::BTreeMap;
use std::time::Duration;

use malla_model::service::ServicePort;
use malla_model::token::{JwksUri, KeySource};
use malla_model::traffic::ClientTlsMode;
use malla_model::{Host, Service};
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::core::{DataSource, HttpUri, http_uri};
use malla_xds_proto::http_filters::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use malla_xds_proto::http_filters::jwt_authn::v3::{JwksAsyncFetch, RemoteJwks};
use malla_xds_proto::wkt;

use super::rules;
use crate::names::outbound_cluster;
use crate::references::Missing;
use crate::view::View;

/// How long keys count before they are fetched again, as Istio has it where proxies fetch.
const REFRESH: Duration = Duration::from_secs(300);
/// The wait after a fetch that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// A key that nobody has the other half of, because Envoy takes no set without keys: the first point of P-256 whose x is
/// the SHA-256 of `no keys` or comes after it.
const NO_KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"nobody","x":"_42IrQQAB7mRd0zuZS51Ehus0YohnkPFoQF9MG94rLk","y":"Y2uIN0TD4f07yvswxNwtRRr8Af4bCcRBiEIDt6hg0dA"}]}"#;

/// The keys of a provider.
pub(super) fn source(view: &View<'_>, keys: &KeySource) -> JwksSourceSpecifier {
    let inline = |text: &str| {
        JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..DataSource::default()
        })
    };
    match keys {
        KeySource::Inline(text) => inline(text),
        KeySource::Unknown => inline(NO_KEYS),
        KeySource::Remote { uri, timeout } => JwksSourceSpecifier::RemoteJwks(RemoteJwks {
            http_uri: Some(HttpUri {
                uri: uri.text.to_string(),
                timeout: Some(wkt::duration(*timeout)),
                http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster_name(
                    view, uri,
                ))),
            }),
            cache_duration: Some(wkt::duration(REFRESH)),
            async_fetch: Some(JwksAsyncFetch {
                // The listener does not wait; requests with tokens do.
                fast_listener: true,
                failed_refetch_duration: Some(wkt::duration(AGAIN)),
            }),
            ..RemoteJwks::default()
        }),
    }
}

/// Addresses of keys that the node's rules name.
fn uris<'a>(view: &View<'a>) -> impl Iterator<Item = &'a JwksUri> {
    rules(view).into_iter().filter_map(|rule| match &rule.keys {
        KeySource::Remote { uri, .. } => Some(uri),
        KeySource::Inline(_) | KeySource::Unknown => None,
    })
}

/// Services of the mesh that serve keys to the node.
pub(crate) fn services<'a>(
    view: &View<'a>,
) -> impl Iterator<Item = (&'a Service, &'a ServicePort)> {
    uris(view).filter_map(|uri| service(view, uri))
}

/// Servers of keys that are no services of the mesh, by the names of their clusters.
pub(crate) fn outside<'a>(view: &View<'a>) -> BTreeMap<String, &'a JwksUri> {
    let outside = uris(view).filter(|uri| service(view, uri).is_none());
    outside.map(|uri| (outside_name(uri), uri)).collect()
}

fn cluster_name(view: &View<'_>, uri: &JwksUri) -> String {
    match service(view, uri) {
        Some((service, port)) => outbound_cluster(port.port, "", &service.hostname),
        None => outside_name(uri),
    }
}

fn outside_name(uri: &JwksUri) -> String {
    let scheme = if uri.tls { "https" } else { "http" };
    format!("jwks|{}|{scheme}|{}", uri.port, uri.host)
}

/// The service of the mesh that answers at an address. One with TLS of its own is called as such only where a
/// DestinationRule says how: a cluster of the mesh would not speak TLS to it.
fn service<'a>(view: &View<'a>, uri: &JwksUri) -> Option<(&'a Service, &'a ServicePort)> {
    let service = known(view, &uri.host)?;
    let port = service.port(uri.port)?;
    if uri.tls {
        view.service(&service.hostname)?;
        let rule = view.rule(&service.hostname, service.namespace())?;
        let mode = rule.policy(port.port, None).tls?.mode;
        if !matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
            return None;
        }
    }
    Some((service, port))
}

/// The service of that name, which may end where a client in the mesh may end it: `NAME.NAMESPACE[.svc]`.
fn known<'a>(view: &View<'a>, host: &Host) -> Option<&'a Service> {
    let domain = &view.mesh.settings.domain;
    let full = match host.as_str().split('.').collect::<Vec<_>>()[..] {
        [name, namespace] | [name, namespace, "svc"] => format!("{name}.{namespace}.svc.{domain}"),
        _ => String::new(),
    };
    let exact = view.service(host).map(|service| &**service);
    let any = |host: &Host| {
        let mut services = view.mesh.services.iter();
        services.find(|service| service.hostname == *host)
    };
    exact
        .or_else(|| any(host).map(|service| &**service))
        .or_else(|| any(&Host::new(&full)).map(|service| &**service))
}

/// What is wrong with an address within the mesh: a host of its domain that is no service, or a port it has not.
pub(crate) fn missing_server(view: &View<'_>, uri: &JwksUri) -> Option<Missing> {
    match known(view, &uri.host) {
        Some(service) if service.port(uri.port).is_none() => Some(Missing::Port {
            host: service.hostname.clone(),
            port: uri.port,
        }),
        Some(_) => None,
        None => {
            let suffix = format!(".svc.{}", view.mesh.settings.domain);
            let ours = uri.host.as_str().ends_with(&suffix);
            ours.then(|| Missing::Host(uri.host.clone()))
        }
    }
}
