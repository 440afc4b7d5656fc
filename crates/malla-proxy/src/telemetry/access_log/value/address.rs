//! Addresses and names of both ends, and of the endpoints that were tried.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use malla_proxy_config::address::Address;
use malla_proxy_config::endpoints::Endpoint;
use malla_proxy_config::format::Plain;

use super::{Source, Value, text};
use crate::connection::End;

impl<'a> Source<'a> {
    /// Addresses and upstream names; `None` if the command is something else.
    pub(super) fn address(&self, plain: Plain) -> Option<Value<'a>> {
        let record = self.record;
        let (connection, attempt) = (&*record.connection, &record.attempt);
        let socket = |address: Option<SocketAddr>| address.map_or(Value::None, Value::Socket);
        let ip = |address: Option<SocketAddr>| {
            address.map_or(Value::None, |address| Value::Ip(address.ip()))
        };
        let port = |address: Option<SocketAddr>| {
            address.map_or(Value::None, |it| Value::Number(it.port().into()))
        };
        // Of a connection that came about.
        let remote = attempt.remote.filter(|_| attempt.connection_id.is_some());
        Some(match plain {
            Plain::DownstreamRemoteAddress => end(&record.remote),
            Plain::DownstreamRemoteAddressWithoutPort => end_alone(&record.remote),
            Plain::DownstreamRemotePort => end_port(&record.remote),
            Plain::DownstreamDirectRemoteAddress => end(&connection.direct_remote),
            Plain::DownstreamDirectRemoteAddressWithoutPort => end_alone(&connection.direct_remote),
            Plain::DownstreamDirectRemotePort => end_port(&connection.direct_remote),
            Plain::DownstreamLocalAddress => end(&connection.local),
            Plain::DownstreamLocalAddressWithoutPort => end_alone(&connection.local),
            Plain::DownstreamLocalPort => end_port(&connection.local),
            Plain::DownstreamDirectLocalAddress => end(&connection.direct_local),
            Plain::DownstreamDirectLocalAddressWithoutPort => end_alone(&connection.direct_local),
            Plain::DownstreamDirectLocalPort => end_port(&connection.direct_local),
            Plain::UpstreamLocalAddress => socket(attempt.local),
            Plain::UpstreamLocalAddressWithoutPort => ip(attempt.local),
            Plain::UpstreamLocalPort => port(attempt.local),
            Plain::UpstreamRemoteAddress => socket(remote),
            Plain::UpstreamRemoteAddressWithoutPort => ip(remote),
            Plain::UpstreamRemotePort => port(remote),
            Plain::UpstreamHost => match (&attempt.endpoint, attempt.remote) {
                (Some(endpoint), remote) => match (&endpoint.address, remote) {
                    (Address::Socket(address), _) => Value::Socket(*address),
                    (_, Some(remote)) => Value::Socket(remote),
                    (address, None) => Value::Owned(address.to_string()),
                },
                (None, remote) => socket(remote),
            },
            Plain::UpstreamHostName | Plain::UpstreamHostNameWithoutPort => match &attempt.endpoint
            {
                None => Value::None,
                Some(endpoint) => Value::Owned(name(endpoint, plain == Plain::UpstreamHostName)),
            },
            Plain::UpstreamCluster => match &record.cluster {
                Some(cluster) => Value::Text(&cluster.stat_name),
                None => text(record.cluster_name.as_deref()),
            },
            Plain::UpstreamClusterRaw => match &record.cluster {
                Some(cluster) => Value::Text(&cluster.name),
                None => text(record.cluster_name.as_deref()),
            },
            Plain::UpstreamTransportFailureReason => match attempt.transport_failure.as_deref() {
                // One word, as everything in a log line.
                Some(reason) => Value::Owned(reason.replace(' ', "_")),
                None => Value::None,
            },
            Plain::UpstreamRequestAttemptCount => Value::Number(record.attempts.into()),
            Plain::UpstreamConnectionId => Value::Number(attempt.connection_id.unwrap_or(0)),
            Plain::UpstreamHostsAttempted => self.attempted(|tried| match tried.address.socket() {
                Some(address) => address.to_string(),
                None => tried.address.to_string(),
            }),
            Plain::UpstreamHostsAttemptedWithoutPort => {
                self.attempted(|tried| match tried.address.socket() {
                    Some(address) => address.ip().to_string(),
                    None => tried.address.to_string(),
                })
            }
            Plain::UpstreamHostNamesAttempted => self.attempted(|tried| name(tried, true)),
            Plain::UpstreamHostNamesAttemptedWithoutPort => {
                self.attempted(|tried| name(tried, false))
            }
            Plain::UpstreamConnectionIdsAttempted => {
                let ids = record.attempted.iter().filter_map(|tried| tried.connection);
                let ids = ids.chain(attempt.connection_id);
                joined(ids.map(|id| id.to_string()))
            }
            // Only addresses of listeners within the process have one.
            Plain::UpstreamRemoteAddressEndpointId if remote.is_none() => Value::None,
            Plain::UpstreamRemoteAddressEndpointId
            | Plain::DownstreamLocalAddressEndpointId
            | Plain::DownstreamDirectLocalAddressEndpointId => Value::Text(""),
            _ => return None,
        })
    }

    /// The network of an address, `10.1.0.0/16`; a prefix longer than the address is all of it.
    pub(super) fn network(&self, plain: Plain, bits: u8) -> Value<'a> {
        let Some(Value::Ip(address)) = self.address(plain) else {
            return Value::None;
        };
        let whole = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        match IpNet::new(address, bits.min(whole)) {
            Ok(network) => Value::Owned(network.trunc().to_string()),
            Err(_) => Value::None,
        }
    }

    /// Every endpoint that was tried, in order.
    fn attempted(&self, show: impl Fn(&Endpoint) -> String) -> Value<'a> {
        let record = self.record;
        let before = record.attempted.iter().map(|tried| &*tried.endpoint);
        let all = before.chain(record.attempt.endpoint.as_deref());
        joined(all.map(show))
    }
}

/// An end of a connection.
fn end(end: &End) -> Value<'_> {
    match end {
        End::Ip(address) => Value::Socket(*address),
        End::Unix(name) => Value::Text(name),
    }
}

/// The same without its port.
fn end_alone(end: &End) -> Value<'_> {
    match end {
        End::Ip(address) => Value::Ip(address.ip()),
        End::Unix(name) => Value::Text(name),
    }
}

fn end_port(end: &End) -> Value<'_> {
    end.port()
        .map_or(Value::Nothing, |port| Value::Number(port.into()))
}

fn joined<'a>(all: impl Iterator<Item = String>) -> Value<'a> {
    let all: Vec<String> = all.collect();
    match all.is_empty() {
        true => Value::None,
        false => Value::Owned(all.join(",")),
    }
}

/// The name of an endpoint, or its address where it has none.
fn name(endpoint: &Endpoint, port: bool) -> String {
    if endpoint.hostname.is_empty() {
        return match endpoint.address.socket() {
            Some(address) if !port => address.ip().to_string(),
            Some(address) => address.to_string(),
            None => endpoint.address.to_string(),
        };
    }
    let name = &endpoint.hostname;
    let bare = || {
        name.rsplit_once(':')
            .map_or(name.as_str(), |(host, _)| host)
    };
    if port {
        name.clone()
    } else {
        bare().to_owned()
    }
}
