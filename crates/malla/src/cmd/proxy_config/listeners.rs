//! Listeners: ADDRESSES, PORT, MATCH, DESTINATION.

use clap::Args;
use serde_json::Value;

use super::dump::{self, Dump};
use super::routes::{matches, strings};
use super::{address, text};
use crate::table::Table;

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    #[arg(long)]
    address: Option<String>,
    #[arg(long)]
    port: Option<u64>,
    /// HTTP, TCP or HTTP+TCP.
    #[arg(long = "type")]
    kind: Option<String>,
    /// One line for each listener, with its type.
    #[arg(long)]
    pub(super) short: bool,
}

const HTTP: &str = "envoy.filters.network.http_connection_manager";
const TCP: &str = "envoy.filters.network.tcp_proxy";
/// Application protocols that have a name, as istioctl calls them.
const NAMED: [(&str, &[&str]); 4] = [
    (
        "App: HTTP TLS",
        &[
            "http/1.0",
            "http/1.1",
            "h2c",
            "istio-http/1.0",
            "istio-http/1.1",
            "istio-h2",
        ],
    ),
    (
        "App: Istio HTTP Plain",
        &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"],
    ),
    ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
    ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
];

pub(super) fn select(dump: &Dump, filter: &Filter) -> Vec<Value> {
    let mut listeners = dump.all(dump::LISTENERS);
    listeners.retain(|listener| {
        let (_, port) = address(&listener["address"]);
        let at = |wanted: &String| {
            addresses(listener)
                .iter()
                .any(|ip| ip.eq_ignore_ascii_case(wanted))
        };
        filter.address.as_ref().is_none_or(at)
            && filter.port.is_none_or(|wanted| port == Some(wanted))
            && filter
                .kind
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(kind(listener)))
    });
    listeners.sort_by_cached_key(|listener| {
        let (ip, port) = address(&listener["address"]);
        (port, ip, kind(listener))
    });
    listeners
}

fn addresses(listener: &Value) -> Vec<String> {
    let more = listener["additional_addresses"]
        .as_array()
        .into_iter()
        .flatten();
    let all = std::iter::once(&listener["address"]).chain(more.map(|one| &one["address"]));
    all.map(|one| address(one).0).collect()
}

fn chains(listener: &Value) -> Vec<&Value> {
    let chains = listener["filter_chains"].as_array().into_iter().flatten();
    chains.chain(listener.get("default_filter_chain")).collect()
}

fn filters(chain: &Value) -> impl Iterator<Item = &Value> {
    chain["filters"].as_array().into_iter().flatten()
}

/// A chain that only closes connections.
fn is_black_hole(filter: &Value) -> bool {
    filter["typed_config"]["cluster"] == "BlackHoleCluster"
}

fn kind(listener: &Value) -> &'static str {
    let (mut http, mut tcp) = (false, false);
    for filter in chains(listener).into_iter().flat_map(filters) {
        match text(&filter["name"]) {
            HTTP => http = true,
            TCP if !is_black_hole(filter) => tcp = true,
            _ => {}
        }
    }
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

pub(super) fn table(listeners: &[Value], short: bool) -> Table {
    let heading: &[&str] = match short {
        true => &["ADDRESSES", "PORT", "TYPE"],
        false => &["ADDRESSES", "PORT", "MATCH", "DESTINATION"],
    };
    let mut table = Table::spaced(1, heading.iter().copied());
    for listener in listeners {
        let at = addresses(listener).join(",");
        let (_, port) = address(&listener["address"]);
        let port = port.unwrap_or_default().to_string();
        if short {
            table.row([&at, &port, kind(listener)]);
            continue;
        }
        let chains = chains(listener).into_iter();
        let mut chains: Vec<(String, String)> = chains
            .map(|chain| {
                (
                    destination(chain),
                    chain_match(&chain["filter_chain_match"]),
                )
            })
            .collect();
        chains.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (destination, one) in &chains {
            table.row([&at, &port, one, destination]);
        }
    }
    table
}

fn chain_match(one: &Value) -> String {
    let mut parts = Vec::new();
    let names = strings(&one["server_names"]);
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    if let Some(transport) = one["transport_protocol"].as_str() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols = strings(&one["application_protocols"]);
    if !protocols.is_empty() {
        let named = NAMED.iter().find(|(_, known)| *known == protocols);
        parts.push(named.map_or_else(
            || format!("App: {}", protocols.join(",")),
            |(name, _)| (*name).to_owned(),
        ));
    }
    let port = one["destination_port"]
        .as_u64()
        .map_or_else(String::new, |port| format!(":{port}"));
    let ranges = one["prefix_ranges"].as_array().into_iter().flatten();
    let ranges: Vec<String> = ranges
        .map(|range| {
            format!(
                "{}/{}",
                text(&range["address_prefix"]),
                range["prefix_len"].as_u64().unwrap_or_default()
            )
        })
        .collect();
    match (ranges.is_empty(), port.is_empty()) {
        (false, _) => parts.push(format!("Addr: {}{port}", ranges.join(","))),
        (true, false) => parts.push(format!("Addr: *{port}")),
        (true, true) => {}
    }
    match parts.is_empty() {
        true => "ALL".to_owned(),
        false => parts.join("; "),
    }
}

fn destination(chain: &Value) -> String {
    for filter in filters(chain) {
        let config = &filter["typed_config"];
        match text(&filter["name"]) {
            HTTP => {
                return match (
                    config.get("route_config"),
                    config["rds"]["route_config_name"].as_str(),
                ) {
                    (Some(routes), _) => inline(routes),
                    (None, Some(name)) => format!("Route: {name}"),
                    (None, None) => "HTTP".to_owned(),
                };
            }
            TCP if !is_black_hole(filter) => return to_cluster(text(&config["cluster"])),
            _ => {}
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

fn to_cluster(cluster: &str) -> String {
    match cluster.contains("Cluster") {
        true => cluster.to_owned(),
        false => format!("Cluster: {cluster}"),
    }
}

fn inline(routes: &Value) -> String {
    let hosts: Vec<&Value> = routes["virtual_hosts"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    if let [host] = hosts[..]
        && strings(&host["domains"]) == ["*"]
        && let Some([route]) = host["routes"].as_array().map(Vec::as_slice)
        && route["match"]["prefix"] == "/"
        && let Some(cluster) = route["route"]["cluster"].as_str()
    {
        return to_cluster(cluster);
    }
    let described = hosts.into_iter().map(|host| {
        let list = host["routes"].as_array().into_iter().flatten();
        let paths: Vec<String> = list.map(|route| matches(&route["match"])).collect();
        match strings(&host["domains"])[..] {
            ["*"] => paths.join(", "),
            ref domains => format!("{} {}", domains.join("/"), paths.join(", ")),
        }
    });
    format!("Inline Route: {}", described.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn listeners_are_shown_as_istioctl_shows_them() {
        let inline = |domains: Value, path: Value, cluster: &str| {
            json!({"name": HTTP, "typed_config": {"route_config": {
                "virtual_hosts": [{"domains": domains, "routes": [{"match": path, "route": {"cluster": cluster}}]}],
            }}})
        };
        let dump = Dump::new(
            json!({"configs": [{"@type": "x/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [
                {"active_state": {"listener": {
                    "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
                    "filter_chains": [
                        {"filter_chain_match": {"destination_port": 7000, "transport_protocol": "tls", "application_protocols": ["istio-peer-exchange", "istio"]},
                         "filters": [inline(json!(["*"]), json!({"prefix": "/"}), "inbound|7000||")]},
                        {"filter_chain_match": {"prefix_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 0}]},
                         "filters": [{"name": TCP, "typed_config": {"cluster": "InboundPassthroughCluster"}}]},
                    ],
                }}},
                {"active_state": {"listener": {
                    "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
                    "filter_chains": [{"filters": [{"name": HTTP, "typed_config": {"rds": {"route_config_name": "80"}}}]}],
                    "default_filter_chain": {"filters": [{"name": TCP, "typed_config": {"cluster": "BlackHoleCluster"}}]},
                }}},
            ]}]}),
        );
        assert_eq!(
            table(&select(&dump, &Filter::default()), false).to_string(),
            "ADDRESSES PORT  MATCH                                  DESTINATION\n\
             0.0.0.0   80    ALL                                    Route: 80\n\
             0.0.0.0   80    ALL                                    Non-HTTP/Non-TCP\n\
             0.0.0.0   15006 Addr: 0.0.0.0/0                        InboundPassthroughCluster\n\
             0.0.0.0   15006 Trans: tls; App: TCP TLS; Addr: *:7000 Cluster: inbound|7000||\n"
        );
        let short = table(
            &select(
                &dump,
                &Filter {
                    port: Some(80),
                    ..Filter::default()
                },
            ),
            true,
        );
        assert_eq!(
            short.to_string(),
            "ADDRESSES PORT TYPE\n0.0.0.0   80   HTTP\n"
        );
    }
}
