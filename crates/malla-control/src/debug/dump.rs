//! What a proxy is offered, as Envoy's own `/config_dump` would show it once it is taken.

use malla_xds::Layers;
use malla_xds::server::Answer;
use malla_xds_proto::admin::{
    BootstrapConfigDump, ClustersConfigDump, EcdsConfigDump, EndpointsConfigDump,
    ListenersConfigDump, RoutesConfigDump, ScopedRoutesConfigDump, SecretsConfigDump,
    clusters_config_dump::DynamicCluster,
    ecds_config_dump::EcdsFilterConfig,
    endpoints_config_dump::DynamicEndpointConfig,
    listeners_config_dump::{DynamicListener, DynamicListenerState},
    routes_config_dump::DynamicRouteConfig,
    secrets_config_dump::DynamicSecret,
};
use malla_xds_proto::{Any, any, json as proto_json, type_url};
use serde_json::{Value, json};

use super::{NoPage, parameter};
use crate::nodes::{Connected, NodeReport, NodeSet};

/// `/debug/config_dump`, `/debug/edsz` and `/debug/ecdsz` of `?proxyID=`.
pub(super) fn page(
    connected: &Connected,
    name: &str,
    query: &str,
    only: Option<&str>,
) -> Result<Value, NoPage> {
    let proxy = parameter(query, "proxyID").filter(|proxy| !proxy.is_empty());
    let proxy = proxy.ok_or_else(|| NoPage::NoProxy(name.to_owned()))?;
    let (report, set) = find(connected, proxy, only).ok_or(NoPage::NotConnected)?;
    let types = match name {
        "edsz" => Some("eds"),
        "ecdsz" => Some("ecds"),
        _ => parameter(query, "types").filter(|types| !types.is_empty()),
    };
    let configs = match types {
        Some(types) => types
            .split(',')
            .filter_map(url)
            .flat_map(|url| of(&set, url))
            .map(|(_, body)| body)
            .collect(),
        None => {
            let endpoints = parameter(query, "include_eds").is_some();
            all(&report, &set, endpoints)
        }
    };
    let configs: Vec<Value> = configs.iter().map(proto_json::print_any).collect();
    Ok(json!({"configs": configs}))
}

/// `istio.io/debug/config_dump` of one proxy; nothing when it is not connected here.
pub(super) fn answer(connected: &Connected, proxy: &str, only: Option<&str>) -> Vec<Answer> {
    let found = find(connected, proxy, only);
    let parts = found.map(|(report, set)| all(&report, &set, false));
    let parts = parts.into_iter().flatten();
    parts
        .map(|body| Answer {
            name: String::new(),
            body,
        })
        .collect()
}

fn find(
    connected: &Connected,
    proxy: &str,
    only: Option<&str>,
) -> Option<(NodeReport, std::sync::Arc<NodeSet>)> {
    let found = connected.proxy(proxy);
    found.filter(|(report, _)| only.is_none_or(|namespace| *report.namespace == *namespace))
}

/// A type by its short name, in any case.
fn url(short: &str) -> Option<&'static str> {
    let types = [
        type_url::CLUSTER,
        type_url::LISTENER,
        type_url::ROUTE,
        type_url::ENDPOINTS,
        type_url::EXTENSION_CONFIG,
    ];
    types
        .into_iter()
        .find(|url| type_url::short(url).eq_ignore_ascii_case(short))
}

/// Resources of one type. Names are of their `Any`s' transport, not of the dump.
fn of(set: &NodeSet, url: &'static str) -> Vec<(String, Any)> {
    let resources = set.of(url).into_iter().flat_map(Layers::iter);
    let packed = resources.map(|(name, resource)| {
        let body = Any {
            type_url: url.to_owned(),
            value: resource.body.to_vec(),
        };
        (name.to_string(), body)
    });
    packed.collect()
}

/// Every section, in istiod's order.
fn all(report: &NodeReport, set: &NodeSet, endpoints: bool) -> Vec<Any> {
    let version = || report.offered.to_string();
    let clusters = of(set, type_url::CLUSTER).into_iter();
    let clusters = ClustersConfigDump {
        version_info: version(),
        dynamic_active_clusters: clusters
            .map(|(_, cluster)| DynamicCluster {
                cluster: Some(cluster),
                ..DynamicCluster::default()
            })
            .collect(),
        ..ClustersConfigDump::default()
    };
    let listeners = of(set, type_url::LISTENER).into_iter();
    let listeners = ListenersConfigDump {
        version_info: version(),
        dynamic_listeners: listeners
            .map(|(name, listener)| DynamicListener {
                name,
                active_state: Some(DynamicListenerState {
                    version_info: version(),
                    listener: Some(listener),
                    ..DynamicListenerState::default()
                }),
                ..DynamicListener::default()
            })
            .collect(),
        ..ListenersConfigDump::default()
    };
    let routes = of(set, type_url::ROUTE).into_iter();
    let routes = RoutesConfigDump {
        dynamic_route_configs: routes
            .map(|(_, routes)| DynamicRouteConfig {
                version_info: version(),
                route_config: Some(routes),
                ..DynamicRouteConfig::default()
            })
            .collect(),
        ..RoutesConfigDump::default()
    };
    let mut sections = vec![
        any::pack(&BootstrapConfigDump::default()),
        any::pack(&clusters),
    ];
    if endpoints {
        sections.push(any::pack(&endpoint_section(set, &version())));
    }
    sections.extend([
        any::pack(&listeners),
        any::pack(&ScopedRoutesConfigDump::default()),
        any::pack(&routes),
        any::pack(&secret_section(set, &version())),
        any::pack(&extension_section(set, &version())),
    ]);
    sections
}

fn endpoint_section(set: &NodeSet, version: &str) -> EndpointsConfigDump {
    let endpoints = of(set, type_url::ENDPOINTS).into_iter();
    EndpointsConfigDump {
        dynamic_endpoint_configs: endpoints
            .map(|(_, endpoints)| DynamicEndpointConfig {
                version_info: version.to_owned(),
                endpoint_config: Some(endpoints),
                ..DynamicEndpointConfig::default()
            })
            .collect(),
        ..EndpointsConfigDump::default()
    }
}

/// Names alone: certificates and keys are told to nobody but their gateway.
fn secret_section(set: &NodeSet, version: &str) -> SecretsConfigDump {
    let secrets = of(set, type_url::SECRET).into_iter();
    SecretsConfigDump {
        dynamic_active_secrets: secrets
            .map(|(name, _)| DynamicSecret {
                name,
                version_info: version.to_owned(),
                ..DynamicSecret::default()
            })
            .collect(),
        ..SecretsConfigDump::default()
    }
}

fn extension_section(set: &NodeSet, version: &str) -> EcdsConfigDump {
    let extensions = of(set, type_url::EXTENSION_CONFIG).into_iter();
    EcdsConfigDump {
        ecds_filters: extensions
            .map(|(_, extension)| EcdsFilterConfig {
                version_info: version.to_owned(),
                ecds_filter: Some(extension),
                ..EcdsFilterConfig::default()
            })
            .collect(),
    }
}
