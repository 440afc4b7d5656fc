//! Endpoints: as the proxy sees them (ENDPOINT, STATUS, OUTLIER CHECK, CLUSTER) and as they were sent
//! (NAME, STATUS, LOCALITY, CLUSTER).

use clap::Args;
use serde_json::Value;

use super::clusters::key;
use super::dump::{self, Dump};
use super::{address, or_default, text};
use crate::table::Table;

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    #[arg(long)]
    address: Option<String>,
    #[arg(long)]
    port: Option<u64>,
    #[arg(long)]
    cluster: Option<String>,
    /// `healthy`, `unhealthy`, `draining`, ...
    #[arg(long)]
    status: Option<String>,
}

impl Filter {
    fn takes(&self, at: &Value, cluster: &str, status: &str) -> bool {
        let (ip, port) = address(at);
        let same = |wanted: &Option<String>, is: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        same(&self.address, &ip)
            && self.port.is_none_or(|wanted| port == Some(wanted))
            && same(&self.cluster, cluster)
            && same(&self.status, status)
    }
}

fn at(value: &Value) -> String {
    match address(value) {
        (ip, Some(port)) => format!("{ip}:{port}"),
        (path, None) => path,
    }
}

fn status(host: &Value) -> String {
    text(&or_default(
        &host["health_status"]["eds_health_status"],
        "UNKNOWN",
    ))
    .to_owned()
}

/// Clusters of `/clusters?format=json`, with the endpoints that are wanted.
pub(super) fn select(page: &Value, filter: &Filter) -> Vec<Value> {
    let clusters = page["cluster_statuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let narrowed = clusters.into_iter().filter_map(|mut cluster| {
        let name = text(&cluster["name"]).to_owned();
        let hosts = cluster["host_statuses"].as_array_mut()?;
        hosts.retain(|host| filter.takes(&host["address"], &name, &status(host)));
        (!hosts.is_empty()).then_some(cluster)
    });
    narrowed.collect()
}

pub(super) fn table(clusters: &[Value]) -> Table {
    let mut rows: Vec<(String, u64, String, [String; 4])> = Vec::new();
    for cluster in clusters {
        let name = text(&cluster["name"]);
        for host in cluster["host_statuses"].as_array().into_iter().flatten() {
            let (ip, port) = address(&host["address"]);
            let failed = host["health_status"]["failed_outlier_check"] == true;
            let check = if failed { "FAILED" } else { "OK" };
            let row = [
                at(&host["address"]),
                status(host),
                check.to_owned(),
                name.to_owned(),
            ];
            rows.push((ip, port.unwrap_or_default(), name.to_owned(), row));
        }
    }
    rows.sort();
    let mut table = Table::new(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    for (_, _, _, row) in rows {
        table.row(row);
    }
    table
}

/// Resources of EDS with the endpoints that are wanted.
pub(super) fn select_sent(dump: &Dump, filter: &Filter) -> Vec<Value> {
    let resources = dump.all(dump::ENDPOINTS).into_iter();
    let narrowed = resources.filter_map(|mut resource| {
        let name = text(&resource["cluster_name"]).to_owned();
        let localities = resource["endpoints"].as_array_mut()?;
        for locality in localities.iter_mut() {
            if let Some(endpoints) = locality["lb_endpoints"].as_array_mut() {
                endpoints.retain(|endpoint| {
                    let health = or_default(&endpoint["health_status"], "UNKNOWN");
                    filter.takes(&endpoint["endpoint"]["address"], &name, text(&health))
                });
            }
        }
        localities.retain(|locality| {
            locality["lb_endpoints"]
                .as_array()
                .is_some_and(|e| !e.is_empty())
        });
        (!localities.is_empty()).then_some(resource)
    });
    let mut narrowed: Vec<Value> = narrowed.collect();
    narrowed.sort_by_cached_key(|resource| key(text(&resource["cluster_name"])).0);
    narrowed
}

pub(super) fn table_sent(resources: &[Value]) -> Table {
    let mut table = Table::new(["NAME", "STATUS", "LOCALITY", "CLUSTER"]);
    for resource in resources {
        for locality in resource["endpoints"].as_array().into_iter().flatten() {
            let parts =
                ["region", "zone", "sub_zone"].map(|part| text(&locality["locality"][part]));
            let place = parts.join("/");
            for endpoint in locality["lb_endpoints"].as_array().into_iter().flatten() {
                let whole = at(&endpoint["endpoint"]["address"]);
                table.row([
                    whole.strip_prefix("unix://").unwrap_or(&whole).to_owned(),
                    text(&or_default(&endpoint["health_status"], "UNKNOWN")).to_owned(),
                    place.trim_end_matches('/').to_owned(),
                    text(&resource["cluster_name"]).to_owned(),
                ]);
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn socket(ip: &str, port: u16) -> Value {
        json!({"socket_address": {"address": ip, "port_value": port}})
    }

    #[test]
    fn endpoints_are_shown_as_istioctl_shows_them() {
        let page = json!({"cluster_statuses": [
            {"name": "b", "host_statuses": [
                {"address": socket("10.0.0.2", 80), "health_status": {"eds_health_status": "HEALTHY"}},
                {"address": socket("10.0.0.1", 80), "health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": true}},
            ]},
            {"name": "a", "host_statuses": [{"address": {"pipe": {"path": "./x"}}}]},
        ]});
        assert_eq!(
            table(&select(&page, &Filter::default())).to_string(),
            "ENDPOINT        STATUS      OUTLIER CHECK     CLUSTER\n\
             10.0.0.1:80     HEALTHY     FAILED            b\n\
             10.0.0.2:80     HEALTHY     OK                b\n\
             unix://./x      UNKNOWN     OK                a\n"
        );
        let only = Filter {
            cluster: Some("a".into()),
            ..Filter::default()
        };
        assert_eq!(select(&page, &only).len(), 1);
        let dump = Dump::new(
            json!({"configs": [{"@type": "x/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": [
                {"endpoint_config": {"cluster_name": "outbound|80||u.base", "endpoints": [
                    {"locality": {"region": "r", "zone": "z"}, "lb_endpoints": [{"health_status": "HEALTHY", "endpoint": {"address": socket("10.0.0.1", 80)}}]},
                ]}},
            ]}]}),
        );
        assert_eq!(
            table_sent(&select_sent(&dump, &Filter::default())).to_string(),
            "NAME            STATUS      LOCALITY     CLUSTER\n\
             10.0.0.1:80     HEALTHY     r/z          outbound|80||u.base\n"
        );
    }
}
