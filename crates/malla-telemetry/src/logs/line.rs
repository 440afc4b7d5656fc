//! One access log line.

use prost::Message;
use serde::{Serialize, Serializer};

use crate::api::json::rfc3339;

/// Bytes of one text field; longer ones are cut.
const LONGEST: usize = 4096;

/// What a proxy says about one request or connection. Serialized as the console's API has it.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When it began, Unix milliseconds.
    #[prost(int64, tag = "1")]
    #[serde(serialize_with = "time")]
    pub time: i64,
    /// Of the proxy that wrote the line.
    #[prost(string, tag = "2")]
    pub pod: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(string, tag = "4")]
    pub workload: String,
    #[prost(string, tag = "5")]
    pub method: String,
    #[prost(string, tag = "6")]
    pub path: String,
    #[prost(string, tag = "7")]
    pub authority: String,
    /// 0 for TCP, and when no response was sent.
    #[prost(uint32, tag = "8")]
    pub code: u32,
    /// Envoy's response flags, such as `UO`.
    #[prost(string, repeated, tag = "9")]
    pub flags: Vec<String>,
    #[prost(double, tag = "10")]
    pub duration_ms: f64,
    #[prost(uint64, tag = "11")]
    pub bytes_sent: u64,
    #[prost(uint64, tag = "12")]
    pub bytes_received: u64,
    #[prost(string, tag = "13")]
    pub upstream_host: String,
    #[prost(string, tag = "14")]
    pub upstream_cluster: String,
    #[prost(string, tag = "15")]
    pub route: String,
    #[prost(string, tag = "16")]
    pub request_id: String,
    /// Empty when not traced.
    #[prost(string, tag = "17")]
    pub trace_id: String,
    #[prost(string, tag = "18")]
    pub user_agent: String,
    /// `HTTP/1.1`, `HTTP/2`, `TCP` …
    #[prost(string, tag = "19")]
    pub protocol: String,
    /// `source` when written on the caller's side.
    #[prost(string, tag = "20")]
    pub reporter: String,
    /// The workload that called; empty when unknown.
    #[prost(string, tag = "21")]
    pub source: String,
    /// The workload or service that was called.
    #[prost(string, tag = "22")]
    pub destination: String,
    /// Envoy's RESPONSE_CODE_DETAILS.
    #[prost(string, tag = "23")]
    pub details: String,
    /// Why the connection to the upstream failed.
    #[prost(string, tag = "24")]
    pub failure: String,
    #[prost(string, tag = "25")]
    pub downstream: String,
}

fn time<S: Serializer>(milliseconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*milliseconds))
}

/// Whose line it is, when the line does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    pub pod: String,
    pub namespace: String,
    pub workload: String,
    /// A gateway is always the caller's side.
    pub gateway: bool,
}

/// A cluster's name as Istio builds it: `outbound|80|v1|reviews.base.svc.cluster.local`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClusterName<'a> {
    pub(crate) inbound: bool,
    pub(crate) host: &'a str,
}

impl<'a> ClusterName<'a> {
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.split('|');
        let inbound = match parts.next()? {
            "inbound" => true,
            "outbound" => false,
            _ => return None,
        };
        Some(Self {
            inbound,
            host: parts.nth(2)?,
        })
    }

    /// `reviews.base` for a host within the cluster, the host itself otherwise.
    pub(crate) fn service(&self) -> String {
        match self.host.split_once(".svc.") {
            Some((service, _)) => service.to_owned(),
            None => self.host.to_owned(),
        }
    }
}

impl LogLine {
    /// Fills in who reports and who called whom, from the origin and the upstream cluster, where
    /// the line itself says nothing; and cuts what is too long.
    pub(crate) fn complete(mut self, origin: &Origin, peer: Option<&str>) -> Self {
        for (field, known) in [
            (&mut self.pod, &origin.pod),
            (&mut self.namespace, &origin.namespace),
            (&mut self.workload, &origin.workload),
        ] {
            if field.is_empty() {
                field.clone_from(known);
            }
        }
        let cluster = ClusterName::parse(&self.upstream_cluster);
        let inbound = !origin.gateway && cluster.as_ref().is_some_and(|c| c.inbound);
        if self.reporter.is_empty() {
            self.reporter = if inbound { "destination" } else { "source" }.to_owned();
        }
        let own = match (self.workload.as_str(), self.namespace.as_str()) {
            ("", _) => String::new(),
            (workload, "") => workload.to_owned(),
            (workload, namespace) => format!("{workload}.{namespace}"),
        };
        let called = match &cluster {
            Some(cluster) if !cluster.inbound => cluster.service(),
            _ => self.authority.clone(),
        };
        let (source, destination) = match self.reporter.as_str() {
            "destination" => (peer.map(spiffe_workload).unwrap_or_default(), own),
            _ => (own, called),
        };
        if self.source.is_empty() {
            self.source = source;
        }
        if self.destination.is_empty() {
            self.destination = destination;
        }
        for field in [
            &mut self.path,
            &mut self.authority,
            &mut self.user_agent,
            &mut self.request_id,
            &mut self.details,
            &mut self.failure,
            &mut self.route,
            &mut self.upstream_cluster,
            &mut self.method,
            &mut self.trace_id,
            &mut self.source,
            &mut self.destination,
        ] {
            field.truncate(field.floor_char_boundary(LONGEST));
        }
        self
    }

    /// Bytes of its texts, roughly.
    pub(crate) fn size(&self) -> usize {
        self.encoded_len()
    }
}

/// `spiffe://cluster.local/ns/base/sa/web` → `web.base`: the account is all a certificate says.
fn spiffe_workload(uri: &str) -> String {
    let mut parts = uri.trim_start_matches("spiffe://").split('/');
    let part = |parts: &mut std::str::Split<'_, char>, name| {
        parts
            .find(|part| *part == name)
            .and_then(|_| parts.next())
            .map(str::to_owned)
    };
    match (part(&mut parts, "ns"), part(&mut parts, "sa")) {
        (Some(namespace), Some(account)) => format!("{account}.{namespace}"),
        _ => String::new(),
    }
}

/// The trace id out of `traceparent` or `x-b3-traceid`/`b3`, without filled-up zeros cut.
pub(crate) fn trace_id<'a>(header: impl Fn(&str) -> Option<&'a str>) -> String {
    let w3c = header("traceparent").and_then(|value| value.split('-').nth(1));
    let b3 = || header("b3").and_then(|value| value.split('-').next());
    let id = w3c
        .or_else(|| header("x-b3-traceid"))
        .or_else(b3)
        .unwrap_or_default();
    let id = id.trim();
    match id.bytes().all(|b| b.is_ascii_hexdigit()) && (1..=32).contains(&id.len()) {
        true => format!("{id:0>32}").to_ascii_lowercase(),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cluster: &str) -> LogLine {
        LogLine {
            upstream_cluster: cluster.to_owned(),
            authority: "asked.example".to_owned(),
            ..LogLine::default()
        }
    }

    #[track_caller]
    fn check(cluster: &str, gateway: bool, want: [&str; 3]) {
        let origin = Origin {
            pod: "web-1".to_owned(),
            namespace: "base".to_owned(),
            workload: "web".to_owned(),
            gateway,
        };
        let peer = Some("spiffe://cluster.local/ns/shop/sa/cart");
        let line = line(cluster).complete(&origin, peer);
        assert_eq!([&*line.reporter, &*line.source, &*line.destination], want);
    }

    #[test]
    fn ends_are_told_by_the_cluster() {
        check(
            "inbound|80||",
            false,
            ["destination", "cart.shop", "web.base"],
        );
        check(
            "outbound|80|v1|db.base.svc.cluster.local",
            false,
            ["source", "web.base", "db.base"],
        );
        check(
            "outbound|443||www.example.org",
            true,
            ["source", "web.base", "www.example.org"],
        );
        check(
            "PassthroughCluster",
            false,
            ["source", "web.base", "asked.example"],
        );
    }

    #[test]
    fn trace_ids_are_found_in_either_header() {
        let find = |name: &'static str, value: &'static str| {
            trace_id(move |asked| (asked == name).then_some(value))
        };
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(
            find(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            ),
            id
        );
        assert_eq!(
            find("x-b3-traceid", "8448EB211C80319C"),
            "00000000000000008448eb211c80319c"
        );
        assert_eq!(
            find("b3", "8448eb211c80319c-1-1"),
            "00000000000000008448eb211c80319c"
        );
        assert_eq!(find("x-b3-traceid", "<script>"), "");
    }
}
