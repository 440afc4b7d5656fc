//! Counts a connection of bytes in Istio's standard metrics.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::filter_chain::NetworkFilter;
use malla_proxy_config::istio_stats::StatsConfig;

use super::Totals;
use crate::connection::Connection;
use crate::http::metrics::{downstream_principals, reporter, service_of, upstream_principals};
use crate::peers::KnownPeer;
use crate::telemetry::access_log;
use crate::telemetry::flags::{Flag, Flags};
use crate::telemetry::istio::{Counted, Facts, Protocol, Reporter, Service, TcpMeter, evaluate};
use crate::telemetry::record::Record;
use crate::upstream::Attempt;
use crate::worker::Worker;

/// What is known of a connection once it is known where it leads, or that it leads nowhere.
pub(super) struct Begun<'a> {
    pub(super) worker: &'a Worker,
    pub(super) connection: &'a Connection,
    pub(super) cluster: Option<&'a Arc<Cluster>>,
    pub(super) attempt: &'a Attempt,
    pub(super) flags: &'a [&'static str],
    /// What the proxies at both ends told of themselves.
    pub(super) caller: Option<&'a Rc<KnownPeer>>,
    pub(super) called: Option<&'a Rc<KnownPeer>>,
}

/// The configuration of the chain's filter, if it has one.
pub(super) fn config(connection: &Connection) -> Option<&Arc<StatsConfig>> {
    let mut filters = connection.chain.filters.iter();
    filters.find_map(|filter| match filter {
        NetworkFilter::IstioStats(config) => Some(config),
        _ => None,
    })
}

impl Begun<'_> {
    /// Counts the connection as begun.
    pub(super) fn count(&self, config: &StatsConfig) -> TcpMeter {
        let metrics = self.worker.metrics();
        let reporter = reporter(self.connection);
        let found = self.of_endpoint();
        let called = self.called.or(found.as_ref());
        let peer = match reporter {
            Reporter::Source => called,
            Reporter::Destination => self.caller,
        };
        let (peer_principal, own_principal) = match reporter {
            Reporter::Destination => downstream_principals(self.connection),
            Reporter::Source => upstream_principals(self.attempt),
        };
        let mut values = Vec::new();
        if config.fingerprint != 0 {
            let record = self.record();
            let environment = self.worker.handlers().environment();
            let source = access_log::source(&record, environment);
            let peers = [self.caller, called];
            evaluate(config, &source, &metrics.own, peers, &mut values);
        }
        let mut flags = Flags::default();
        let words = self.flags.iter();
        words
            .filter_map(|word| Flag::from_short(word))
            .for_each(|flag| flags.set(flag));
        let service = Service::default();
        let facts = Facts {
            config,
            counted: Counted::Connections,
            reporter,
            protocol: Protocol::Tcp,
            peer,
            peer_principal,
            own_principal,
            service: self
                .cluster
                .map_or(service, |cluster| service_of(cluster, service)),
            code: 0,
            grpc_status: None,
            flags: flags.bits(),
            mutual_tls: (reporter == Reporter::Destination)
                .then_some(!peer_principal.is_empty() && !own_principal.is_empty()),
            values: &values,
            overflow: false,
        };
        metrics.open(&facts)
    }

    /// Who is called, as the control plane says.
    fn of_endpoint(&self) -> Option<Rc<KnownPeer>> {
        let endpoint = self.attempt.endpoint.as_ref()?;
        let peers = &self.worker.metrics().peers;
        peers.of_endpoint(endpoint.workload()?)
    }

    /// For users' expressions only.
    fn record(&self) -> Record {
        let connection = Rc::new(self.connection.clone());
        let (accepted, wall) = (connection.accepted, connection.accepted_at);
        let mut record = Record::begin(connection, None, accepted, wall);
        record.attempt = self.attempt.clone();
        record.cluster = self.cluster.cloned();
        record
    }
}

/// Counts what an open connection has come to, again and again; never ends.
pub(super) async fn report(
    meter: Option<&TcpMeter>,
    config: Option<&StatsConfig>,
    totals: &Totals,
) -> Infallible {
    let (Some(meter), Some(every)) = (meter, config.and_then(|config| config.reporting)) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(every).await;
        meter.flush(totals.from_upstream.get(), totals.from_downstream.get());
    }
}
