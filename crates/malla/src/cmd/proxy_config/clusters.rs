//! Clusters: SERVICE FQDN, PORT, SUBSET, DIRECTION, TYPE, DESTINATION RULE.

use clap::Args;
use serde_json::Value;

use super::dump::{self, Dump};
use super::{made_by, or_default, text};
use crate::table::Table;

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Of the service, or a part of it.
    #[arg(long)]
    fqdn: Option<String>,
    #[arg(long)]
    port: Option<u16>,
    #[arg(long)]
    subset: Option<String>,
    /// `inbound` or `outbound`.
    #[arg(long)]
    direction: Option<String>,
}

/// `direction|port|subset|host`, what cluster names are made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) host: String,
    subset: String,
    port: u16,
    direction: String,
}

/// Names of other forms are hosts.
pub(super) fn key(name: &str) -> (Key, bool) {
    if let [direction, port, subset, host] = name.split('|').collect::<Vec<_>>()[..] {
        let key = Key {
            host: host.to_owned(),
            subset: subset.to_owned(),
            port: port.parse().unwrap_or_default(),
            direction: direction.to_owned(),
        };
        return (key, true);
    }
    let key = Key {
        host: name.to_owned(),
        subset: String::new(),
        port: 0,
        direction: String::new(),
    };
    (key, false)
}

pub(super) fn select(dump: &Dump, filter: &Filter) -> Vec<Value> {
    let mut clusters = dump.all(dump::CLUSTERS);
    clusters.retain(|cluster| {
        let name = text(&cluster["name"]);
        let (key, _) = key(name);
        filter
            .fqdn
            .as_ref()
            .is_none_or(|fqdn| key.host.contains(fqdn.as_str()))
            && filter.port.is_none_or(|port| key.port == port)
            && filter
                .subset
                .as_ref()
                .is_none_or(|subset| key.subset == *subset)
            && filter
                .direction
                .as_ref()
                .is_none_or(|d| key.direction == *d)
    });
    clusters.sort_by_cached_key(|cluster| key(text(&cluster["name"])).0);
    clusters
}

pub(super) fn table(clusters: &[Value]) -> Table {
    let heading = [
        "SERVICE FQDN",
        "PORT",
        "SUBSET",
        "DIRECTION",
        "TYPE",
        "DESTINATION RULE",
    ];
    let mut table = Table::new(heading);
    for cluster in clusters {
        let (key, is_service) = key(text(&cluster["name"]));
        let kind = text(&or_default(&cluster["type"], "STATIC")).to_owned();
        let kind = match text(&cluster["cluster_type"]["name"]) {
            "" => kind,
            _ => "CUSTOM".to_owned(),
        };
        let rule = made_by(&cluster["metadata"]);
        match is_service {
            true => {
                let subset = match key.subset.as_str() {
                    "" => "-".to_owned(),
                    subset => subset.to_owned(),
                };
                table.row([
                    key.host,
                    key.port.to_string(),
                    subset,
                    key.direction,
                    kind,
                    rule,
                ]);
            }
            false => {
                let none = || "-".to_owned();
                table.row([key.host, none(), none(), none(), kind, rule]);
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clusters_are_shown_as_istioctl_shows_them() {
        let rule = "/apis/networking.istio.io/v1/namespaces/base/destination-rule/user";
        let dump = Dump::new(json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "static_clusters": [{"cluster": {"name": "agent"}}],
            "dynamic_active_clusters": [
                {"cluster": {"name": "outbound|7000|v1|user.base.svc.cluster.local", "type": "EDS",
                    "metadata": {"filter_metadata": {"istio": {"config": rule}}}}},
                {"cluster": {"name": "inbound|7000||", "type": "ORIGINAL_DST"}},
            ],
        }]}));
        let shown = |filter: &Filter| table(&select(&dump, filter)).to_string();
        assert_eq!(
            shown(&Filter::default()),
            "SERVICE FQDN                    PORT     SUBSET     DIRECTION     TYPE             DESTINATION RULE\n\
            \x20                               7000     -          inbound       ORIGINAL_DST     \n\
            agent                           -        -          -             STATIC           \n\
            user.base.svc.cluster.local     7000     v1         outbound      EDS              user.base\n"
        );
        let only = Filter {
            direction: Some("outbound".into()),
            ..Filter::default()
        };
        assert_eq!(shown(&only).lines().count(), 2);
        let none = Filter {
            port: Some(1),
            ..Filter::default()
        };
        assert_eq!(shown(&none).lines().count(), 1);
    }
}
