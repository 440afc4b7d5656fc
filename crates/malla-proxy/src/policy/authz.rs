//! Asks another service about connections (`envoy.filters.network.ext_authz`).
//!
//! Asked when the connection is there, not at its first byte: a service that refuses need not wait for one.

use malla_proxy_config::filter_chain::authz::NetworkAuthz;
use malla_proxy_config::stream_state::StreamState;
use malla_xds_proto::pb::envoy::service::auth::v3 as pb;

use crate::call::Caller;
use crate::connection::Connection;
use crate::filter::ext_authz::{METHOD, ask};
use crate::telemetry::stats::WorkerStats;
use crate::upstream::Upstreams;

/// No answer is longer, bytes.
const MAX_ANSWER: usize = 1 << 20;

/// True if the connection is to be asked about, by what the filters before have noted.
pub(super) fn concerns(config: &NetworkAuthz, noted: &StreamState) -> bool {
    let wanted = config.enabled_metadata.as_ref();
    wanted.is_none_or(|matcher| matcher.is_match(Some(&noted.metadata)))
}

/// True if the connection may go on.
pub(super) async fn allows<U: Upstreams>(
    config: &NetworkAuthz,
    connection: &Connection,
    caller: &Caller<U>,
    stats: &WorkerStats,
) -> bool {
    let stats = stats.network_authz(&config.stat_prefix);
    stats.total.inc();
    stats.active.inc();
    let request = question(config, connection);
    let asked =
        caller.unary::<_, pb::CheckResponse>(&config.service, METHOD, &[], &request, MAX_ANSWER);
    let answer = asked.await;
    stats.active.dec();
    let allowed = match answer {
        Ok(response) => {
            let ok = response.status.is_none_or(|status| status.code == 0);
            if ok {
                stats.ok.inc()
            } else {
                stats.denied.inc()
            }
            ok
        }
        Err(error) => {
            tracing::debug!(%error, "the authorization service gives no answer");
            stats.error.inc();
            if config.allow_failure {
                stats.failure_mode_allowed.inc();
            }
            config.allow_failure
        }
    };
    if !allowed {
        stats.cx_closed.inc();
    }
    allowed
}

fn question(config: &NetworkAuthz, connection: &Connection) -> pb::CheckRequest {
    let tls = connection.tls.as_ref();
    let mut source = ask::peer(&connection.remote, tls, false);
    if config.certificate
        && let Some(certificate) = tls.and_then(|tls| tls.peer.as_ref())
    {
        source.certificate = certificate.pem.to_string();
    }
    let attributes = pb::AttributeContext {
        source: Some(source),
        destination: Some(ask::peer(&connection.local, tls, true)),
        tls_session: ask::tls_session(connection, config.tls_session),
        ..pb::AttributeContext::default()
    };
    pb::CheckRequest {
        attributes: Some(attributes),
    }
}
