//! Answers of a cluster by status: `upstream_rq_503`, `external.upstream_rq_5xx`, `zone.a.b.upstream_rq_completed`.
//!
//! Most clusters only ever see two or three statuses, so each gets its counter when it first comes: a list that only
//! grows, without a lock, and is shorter than what is remembered of one connection. One writer, as everywhere here.
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use malla_proxy_config::endpoints::Locality;

use super::stats::Count;

/// What an answer counts as, besides its status (Envoy's `CodeStatsImpl::chargeResponseStat`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The request came from inside (`x-envoy-internal`).
    pub internal: bool,
    /// The endpoint is a canary, or its answer says so.
    pub canary: bool,
    /// Both ends' localities, if their zones are known.
    pub zones: Option<&'a Zones>,
}

/// Where the proxy is, and where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    pub from: Arc<Locality>,
    pub to: Arc<Locality>,
}

impl Zones {
    /// Both, if both have a zone.
    pub fn between(from: &Arc<Locality>, to: &Arc<Locality>) -> Option<Self> {
        (!from.zone.is_empty() && !to.zone.is_empty()).then(|| Self {
            from: Arc::clone(from),
            to: Arc::clone(to),
        })
    }
}

/// The counters of one cluster in one worker.
#[derive(Debug, Default)]
pub struct Codes {
    first: Link,
}

/// Answers that were passed on by status, whoever asked and wherever they came from.
#[derive(Debug, Default)]
pub struct Answers(pub Codes);

impl Answers {
    /// As [`Codes::walk`].
    pub fn walk(&self, visit: &mut dyn FnMut(&str, u64)) {
        self.0.walk(&mut |name, count| {
            if name.starts_with("upstream_rq_") {
                visit(name, count);
            }
        });
    }
}

type Link = OnceLock<Box<Node>>;

#[derive(Debug)]
struct Node {
    kind: Kind,
    status: u16,
    zones: Option<Zones>,
    count: Count,
    next: Link,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An answer that was passed on.
    Answer { internal: bool, canary: bool },
    /// An answer that was followed by another try.
    Retried,
}

impl Codes {
    /// Counts an answer, from an upstream or instead of one.
    pub fn answered(&self, status: StatusCode, origin: &Origin<'_>) {
        let kind = Kind::Answer {
            internal: origin.internal,
            canary: origin.canary,
        };
        self.count(kind, status, origin.zones);
    }

    /// Counts an answer that another try follows.
    pub fn retried(&self, status: StatusCode) {
        self.count(Kind::Retried, status, None);
    }

    fn count(&self, kind: Kind, status: StatusCode, zones: Option<&Zones>) {
        let status = status.as_u16();
        let mut link = &self.first;
        loop {
            let node = link.get_or_init(|| {
                Box::new(Node {
                    kind,
                    status,
                    zones: zones.cloned(),
                    count: Count::default(),
                    next: Link::new(),
                })
            });
            if node.status == status && node.kind == kind && same_zones(node.zones.as_ref(), zones)
            {
                return node.count.inc();
            }
            link = &node.next;
        }
    }

    /// Visits each counter; the same name may come several times, to be added up.
    pub fn walk(&self, visit: &mut dyn FnMut(&str, u64)) {
        let mut link = &self.first;
        while let Some(node) = link.get() {
            link = &node.next;
            let mut under = |prefix: &str| {
                let count = node.count.get();
                visit(&format!("{prefix}upstream_rq_completed"), count);
                let (class, status) = (node.status / 100, node.status);
                visit(&format!("{prefix}upstream_rq_{class}xx"), count);
                visit(&format!("{prefix}upstream_rq_{status}"), count);
            };
            let Kind::Answer { internal, canary } = node.kind else {
                under("retry.");
                continue;
            };
            under("");
            under(if internal { "internal." } else { "external." });
            if canary {
                under("canary.");
            }
            if let Some(zones) = &node.zones {
                under(&format!("zone.{}.{}.", zones.from.zone, zones.to.zone));
            }
        }
    }
}

/// gRPC statuses that have come (`cluster.web.grpc.0`).
#[derive(Debug, Default)]
pub struct GrpcStatuses([Count; 17]);

impl GrpcStatuses {
    /// Their names.
    const NAMES: [&str; 17] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];

    /// Counts one; those that gRPC does not know have no counter.
    pub fn count(&self, status: u32) {
        let count = usize::try_from(status).ok().and_then(|at| self.0.get(at));
        if let Some(count) = count {
            count.inc();
        }
    }

    /// Visits those that have come.
    pub fn walk(&self, visit: &mut dyn FnMut(&str, u64)) {
        for (name, count) in Self::NAMES.iter().zip(&self.0) {
            if count.get() > 0 {
                visit(name, count.get());
            }
        }
    }
}

fn same_zones(one: Option<&Zones>, other: Option<&Zones>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.to.zone == other.to.zone,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use http::StatusCode;
    use malla_proxy_config::endpoints::Locality;

    use super::{Codes, Origin, Zones};

    #[test]
    fn an_answer_counts_under_all_it_is() {
        let codes = Codes::default();
        let zone = |zone: &str| {
            Arc::new(Locality {
                zone: zone.into(),
                ..Locality::default()
            })
        };
        let zones = Zones::between(&zone("a"), &zone("b"));
        assert_eq!(Zones::between(&zone(""), &zone("b")), None);
        let inside = Origin {
            internal: true,
            canary: true,
            zones: zones.as_ref(),
        };
        codes.answered(StatusCode::OK, &inside);
        codes.answered(StatusCode::CREATED, &Origin::default());
        codes.answered(StatusCode::OK, &Origin::default());
        codes.retried(StatusCode::BAD_GATEWAY);
        let mut found = BTreeMap::new();
        codes.walk(&mut |name, value| *found.entry(name.to_owned()).or_insert(0) += value);
        let found: Vec<String> = found
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        assert_eq!(
            found,
            [
                "canary.upstream_rq_200 1",
                "canary.upstream_rq_2xx 1",
                "canary.upstream_rq_completed 1",
                "external.upstream_rq_200 1",
                "external.upstream_rq_201 1",
                "external.upstream_rq_2xx 2",
                "external.upstream_rq_completed 2",
                "internal.upstream_rq_200 1",
                "internal.upstream_rq_2xx 1",
                "internal.upstream_rq_completed 1",
                "retry.upstream_rq_502 1",
                "retry.upstream_rq_5xx 1",
                "retry.upstream_rq_completed 1",
                "upstream_rq_200 2",
                "upstream_rq_201 1",
                "upstream_rq_2xx 3",
                "upstream_rq_completed 3",
                "zone.a.b.upstream_rq_200 1",
                "zone.a.b.upstream_rq_2xx 1",
                "zone.a.b.upstream_rq_completed 1",
            ]
        );
    }
}
