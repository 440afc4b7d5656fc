//! Routes: NAME, VHOST NAME, DOMAINS, MATCH, VIRTUAL SERVICE.

use std::collections::HashSet;

use serde_json::Value;

use super::dump::{self, Dump};
use super::{made_by, text};
use crate::table::Table;

/// Domains that are shown; the others are counted.
const SHOWN: usize = 2;

pub(super) fn select(dump: &Dump, name: Option<&str>) -> Vec<Value> {
    let mut routes = dump.all(dump::ROUTES);
    routes.retain(|route| name.is_none_or(|name| route["name"] == name));
    // Ports first, by number; the others as they come.
    routes.sort_by_key(|route| text(&route["name"]).parse::<u32>().unwrap_or(u32::MAX));
    routes
}

pub(super) fn table(configurations: &[Value]) -> Table {
    let mut table = Table::new(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]);
    for configuration in configurations {
        let name = text(&configuration["name"]);
        for host in configuration["virtual_hosts"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let host_name = text(&host["name"]);
            let domains = domains(&strings(&host["domains"]));
            let routes = host["routes"].as_array().cloned().unwrap_or_default();
            for route in &routes {
                if route["route"]["cluster"] != "PassthroughCluster" {
                    let by = made_by(&route["metadata"]);
                    table.row([name, host_name, &domains, &matches(&route["match"]), &by]);
                }
            }
            if routes.is_empty() {
                table.row([name, host_name, &domains, "/*", "404"]);
            }
        }
    }
    table
}

pub(super) fn strings(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

/// What a route matches by path; headers are left out.
pub(super) fn matches(one: &Value) -> String {
    let forms = [
        one["prefix"].as_str().map(|prefix| format!("{prefix}*")),
        one["path_separated_prefix"]
            .as_str()
            .map(|prefix| format!("PathPrefix:{prefix}")),
        one["path"].as_str().map(str::to_owned),
        one["safe_regex"]["regex"]
            .as_str()
            .map(|regex| format!("regex {regex}")),
    ];
    forms.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The shortest names without ports.
fn domains(all: &[&str]) -> String {
    if let [only] = all {
        return (*only).to_owned();
    }
    let bare = all.iter().copied().filter(|domain| {
        let colons = domain.matches(':').count();
        colons == 0 || (colons > 2 && domain.ends_with(']'))
    });
    let bare: Vec<&str> = bare.collect();
    let known: HashSet<&str> = bare.iter().copied().collect();
    let longer = |domain: &&str| {
        let shortened = [".svc.cluster.local", ".svc"].iter();
        let mut shortened = shortened.filter_map(|suffix| domain.strip_suffix(suffix));
        shortened.any(|short| known.contains(short))
    };
    let shown: Vec<&str> = bare
        .iter()
        .copied()
        .filter(|domain| !longer(domain))
        .collect();
    match shown.get(..SHOWN) {
        Some(first) if shown.len() > SHOWN => {
            format!("{} + {} more...", first.join(", "), shown.len() - SHOWN)
        }
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_shown_as_istioctl_shows_them() {
        let by = "/apis/networking.istio.io/v1/namespaces/base/virtual-service/user";
        let dump = Dump::new(
            json!({"configs": [{"@type": "x/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": [
            {"route_config": {"name": "7000", "virtual_hosts": [
                {"name": "user.base.svc.cluster.local:7000",
                 "domains": ["user.base.svc.cluster.local", "user", "user.base.svc", "user.base", "user:7000", "10.0.0.1", "10.0.0.2"],
                 "routes": [{"match": {"prefix": "/"}, "metadata": {"filter_metadata": {"istio": {"config": by}}}}]},
                {"name": "allow_any", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "PassthroughCluster"}}]},
                {"name": "empty", "domains": ["*"]},
            ]}},
        ], "static_route_configs": [{"route_config": {"name": "80", "virtual_hosts": []}}]}]}),
        );
        assert_eq!(
            select(&dump, None)
                .iter()
                .map(|r| text(&r["name"]))
                .collect::<Vec<_>>(),
            ["80", "7000"]
        );
        assert_eq!(
            table(&select(&dump, Some("7000"))).to_string(),
            "NAME     VHOST NAME                           DOMAINS                         MATCH     VIRTUAL SERVICE\n\
             7000     user.base.svc.cluster.local:7000     user, user.base + 2 more...     /*        user.base\n\
             7000     empty                                *                               /*        404\n"
        );
    }
}
