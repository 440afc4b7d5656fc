//! Which proxies are connected, and how far each is with what it was sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use malla_translate::NodeKind;
use malla_xds::server::{Answer, TypeFacts};
use malla_xds_proto::admin::UpdateFailureState;
use malla_xds_proto::client_status::client_config::GenericXdsConfig;
use malla_xds_proto::client_status::{ClientConfig, ConfigStatus};
use malla_xds_proto::core::Node;
use malla_xds_proto::pb::google::protobuf::Timestamp;
use malla_xds_proto::{any, type_url, wkt};
use serde_json::{Map, Value, json};

use crate::index::World;
use crate::nodes::NodeReport;

/// istiod's flat fields for the types it has always had.
const FLAT: [(&str, &str); 5] = [
    ("cluster", type_url::CLUSTER),
    ("listener", type_url::LISTENER),
    ("route", type_url::ROUTE),
    ("endpoint", type_url::ENDPOINTS),
    ("extensionconfig", type_url::EXTENSION_CONFIG),
];

/// `/debug/syncz`: istiod's `SyncStatus` of every proxy, and what Malla knows beside that.
pub(super) fn page(
    reports: &[NodeReport],
    world: &Option<World>,
    namespace: Option<&str>,
) -> Value {
    let wanted = reports
        .iter()
        .filter(|report| namespace.is_none_or(|namespace| *report.namespace == *namespace));
    let newest = world.as_ref().map_or(0, |world| world.number);
    wanted.map(|report| entry(report, newest)).collect()
}

fn entry(report: &NodeReport, newest: u64) -> Value {
    let mut entry = json!({
        "cluster_id": report.cluster_id, "proxy": report.name, "proxy_type": kind(report.kind),
        "proxy_version": report.version, "istio_version": report.istio_version,
        "node": report.id, "identity": report.identity.to_string(),
        "newest": newest, "offered": report.offered, "settled": report.progress.settled,
        "settled_after_ms": report.progress.after.as_millis(),
        "refused": report.progress.refused.iter()
            .map(|r| json!({"type": r.type_url, "names": r.names, "message": r.message})).collect::<Vec<_>>(),
    });
    let mut resources = Map::new();
    for (url, facts) in &report.facts.types {
        resources.insert(
            url.to_string(),
            json!({
                "sent": facts.nonce_sent, "acked": facts.nonce_acked,
                "sentTime": sent_at(facts).map(text), "lastError": error(facts).unwrap_or_default(),
                "state": state(facts).as_str_name(), "held": facts.held, "pushes": facts.pushes, "rejects": facts.rejects,
            }),
        );
    }
    for (name, url) in FLAT {
        let Some(facts) = report.facts.types.get(url) else {
            continue;
        };
        for (when, nonce) in [("sent", &facts.nonce_sent), ("acked", &facts.nonce_acked)] {
            if let (Some(nonce), Some(entry)) = (nonce, entry.as_object_mut()) {
                entry.insert(format!("{name}_{when}"), json!(nonce));
            }
        }
    }
    entry["resources"] = Value::Object(resources);
    entry
}

/// `istio.io/debug/syncz`: one `ClientConfig` for each proxy the caller may see.
pub(super) fn states(reports: &[NodeReport], only: Option<&str>) -> Vec<Answer> {
    let seen = reports
        .iter()
        .filter(|report| only.is_none_or(|namespace| *report.namespace == *namespace));
    seen.map(|report| {
        let types = report.facts.types.iter();
        let node = Node {
            id: report.name.clone(),
            metadata: Some(wkt::structure([
                ("CLUSTER_ID", wkt::string(&report.cluster_id)),
                ("NAMESPACE", wkt::string(&report.namespace)),
                ("ISTIO_VERSION", wkt::string(&report.istio_version)),
            ])),
            ..Node::default()
        };
        let config = ClientConfig {
            node: Some(node),
            generic_xds_configs: types
                .map(|(url, facts)| GenericXdsConfig {
                    type_url: url.to_string(),
                    config_status: state(facts).into(),
                    last_updated: sent_at(facts).map(timestamp),
                    error_state: error(facts).map(|details| UpdateFailureState {
                        last_update_attempt: sent_at(facts).map(timestamp),
                        details,
                        ..UpdateFailureState::default()
                    }),
                    ..GenericXdsConfig::default()
                })
                .collect(),
            ..ClientConfig::default()
        };
        Answer {
            name: report.name.clone(),
            body: any::pack(&config),
        }
    })
    .collect()
}

/// `/debug/connections`, and with what each subscribes to `/debug/adsz`.
pub(super) fn clients(reports: &[NodeReport], watches: bool) -> Value {
    let clients = reports.iter().map(|report| {
        let mut client = json!({
            "connectionId": format!("{}-{}", report.name, report.connection),
            "connectedAt": text(report.since),
            "address": report.id.split('~').nth(1).unwrap_or_default(),
        });
        if watches {
            let types = report.facts.types.iter();
            client["watches"] = types
                .map(|(url, facts)| {
                    (
                        url.to_string(),
                        json!({"all": facts.wildcard, "names": facts.names, "held": facts.held}),
                    )
                })
                .collect::<Map<_, _>>()
                .into();
        }
        client
    });
    json!({"totalClients": reports.len(), "clients": clients.collect::<Vec<_>>()})
}

fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Sidecar => "sidecar",
        NodeKind::Router => "router",
    }
}

fn state(facts: &TypeFacts) -> ConfigStatus {
    match (facts.sent_at, facts.rejected.is_empty(), facts.in_flight()) {
        (_, false, _) => ConfigStatus::Error,
        (None, true, _) => ConfigStatus::NotSent,
        (Some(_), true, true) => ConfigStatus::Stale,
        (Some(_), true, false) => ConfigStatus::Synced,
    }
}

fn error(facts: &TypeFacts) -> Option<String> {
    let errors = facts.rejected.iter();
    let errors: Vec<String> = errors
        .map(|(name, message)| format!("{name}: {message}"))
        .collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// The wall clock's time of the last push.
fn sent_at(facts: &TypeFacts) -> Option<SystemTime> {
    let sent = facts.sent_at?;
    SystemTime::now().checked_sub(sent.elapsed())
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

/// RFC 3339.
fn text(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map(|time| time.to_string())
        .unwrap_or_default()
}
