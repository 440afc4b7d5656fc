//! Injected delays and aborts.
//!
//! Invariant: what a request's headers ask for is bounded by what the
//! configuration allows.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use malla_proxy_config::http_filter::{Fault, FaultAbort, FaultDelay};
use malla_proxy_config::matcher::Fraction;
use malla_proxy_config::request::{RequestView, text};
use malla_proxy_config::route::action::Target;

use crate::http::error::ProxyError;
use crate::http::exchange::Exchange;
use crate::http::selected::Selected;
use crate::http::state::Manager;
use crate::telemetry::flags::Flag;
use crate::upstream::Upstreams;

/// Delays a request, or aborts it.
pub(crate) async fn inject<U: Upstreams>(
    x: &mut Exchange<U>,
    config: &Fault,
) -> Result<(), ProxyError> {
    if config.delay.is_none() && config.abort.is_none() {
        return Ok(());
    }
    let cluster = x
        .selected
        .as_deref()
        .and_then(Selected::forward)
        .and_then(|forward| match &forward.target {
            Target::Cluster(name) => Some(&**name),
            Target::Header(_) | Target::Weighted(_) => None,
        });
    if !applies(config, &x.view(), cluster) {
        return Ok(());
    }
    let manager = Rc::clone(&x.cx.manager);
    let (delay_draw, abort_draw) = (x.cx.worker.random(), x.cx.worker.random());
    let delay = delay(config, &x.head.headers, delay_draw);
    let abort = abort(config, &x.head.headers, abort_draw);
    if delay.is_none() && abort.is_none() {
        return Ok(());
    }
    let Some(_active) = ActiveFault::start(&manager, config.max_active) else {
        manager.stats.fault_faults_overflow.inc();
        return Ok(());
    };
    if let Some(delay) = delay {
        manager.stats.fault_delays_injected.inc();
        x.record().flags.set(Flag::DelayInjected);
        tokio::time::sleep(delay).await;
    }
    match abort {
        None => Ok(()),
        Some((status, grpc)) => {
            manager.stats.fault_aborts_injected.inc();
            Err(ProxyError::FaultAbort { status, grpc })
        }
    }
}

/// Counts one fault under way; freed by its drop.
struct ActiveFault(Rc<Manager>);

impl ActiveFault {
    fn start(manager: &Rc<Manager>, max: Option<u64>) -> Option<Self> {
        let active = manager.active_faults.get();
        if max.is_some_and(|max| active >= max) {
            return None;
        }
        manager.active_faults.set(active + 1);
        manager.stats.fault_active_faults.inc();
        Some(Self(Rc::clone(manager)))
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0
            .active_faults
            .set(self.0.active_faults.get().saturating_sub(1));
        self.0.stats.fault_active_faults.dec();
    }
}

/// True if the fault concerns this request at all.
pub fn applies(fault: &Fault, request: &RequestView<'_>, cluster: Option<&str>) -> bool {
    let node = request
        .headers
        .get("x-envoy-downstream-service-node")
        .map_or("", text);
    fault
        .upstream_cluster
        .as_deref()
        .is_none_or(|wanted| Some(wanted) == cluster)
        && (fault.downstream_nodes.is_empty()
            || fault.downstream_nodes.iter().any(|wanted| wanted == node))
        && fault
            .headers
            .iter()
            .all(|matcher| matcher.is_match(request))
}

/// How long to wait, if at all.
pub fn delay(fault: &Fault, headers: &HeaderMap, random: u64) -> Option<Duration> {
    let (share, delay) = fault.delay?;
    let (wanted, limit) = match delay {
        FaultDelay::Fixed(wanted) => (wanted, None),
        FaultDelay::Header => {
            let wanted = Duration::from_millis(number(headers, "x-envoy-fault-delay-request")?);
            (
                wanted,
                number(headers, "x-envoy-fault-delay-request-percentage"),
            )
        }
    };
    hits(share, limit, random)
        .then_some(wanted)
        .filter(|wanted| !wanted.is_zero())
}

/// What to answer at once, if anything: HTTP status and, where given so, gRPC status.
pub fn abort(fault: &Fault, headers: &HeaderMap, random: u64) -> Option<(StatusCode, Option<u32>)> {
    let (share, abort) = fault.abort?;
    let (answer, limit) = match abort {
        FaultAbort::Http(status) => ((status, None), None),
        FaultAbort::Grpc(status) => ((http_from_grpc(status), Some(status)), None),
        FaultAbort::Header => {
            let limit = number(headers, "x-envoy-fault-abort-request-percentage");
            let status = number(headers, "x-envoy-fault-abort-request")
                .and_then(|status| u16::try_from(status).ok())
                .filter(|status| (200..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok());
            match status {
                Some(status) => ((status, None), limit),
                None => {
                    let grpc =
                        u32::try_from(number(headers, "x-envoy-fault-abort-grpc-request")?).ok()?;
                    ((http_from_grpc(grpc), Some(grpc)), limit)
                }
            }
        }
    };
    hits(share, limit, random).then_some(answer)
}

/// A share lowered, never raised, by the percentage a header asks for.
fn hits(share: Fraction, percent: Option<u64>, random: u64) -> bool {
    let limited = percent.is_none_or(|percent| random % 1_000_000 < percent.saturating_mul(10_000));
    limited && share.hit(random)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers.get(name)?).parse().ok()
}

/// Envoy's `Grpc::Utility::grpcToHttpStatus`.
pub fn http_from_grpc(status: u32) -> StatusCode {
    match status {
        0 => StatusCode::OK,
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use malla_proxy_config::http_filter::{Fault, FaultAbort, FaultDelay};
    use malla_proxy_config::matcher::Fraction;

    use super::{abort, delay};

    fn fault(delay: Option<FaultDelay>, abort: Option<FaultAbort>) -> Fault {
        Fault {
            delay: delay.map(|delay| (Fraction::ALWAYS, delay)),
            abort: abort.map(|abort| (Fraction::ALWAYS, abort)),
            upstream_cluster: None,
            headers: Vec::new(),
            downstream_nodes: Vec::new(),
            max_active: None,
        }
    }

    #[test]
    fn headers_ask_only_where_configured() {
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-fault-delay-request", "250".parse().unwrap());
        headers.insert("x-envoy-fault-abort-request", "418".parse().unwrap());
        let fixed = fault(Some(FaultDelay::Fixed(Duration::from_secs(1))), None);
        assert_eq!(delay(&fixed, &headers, 0), Some(Duration::from_secs(1)));
        assert_eq!(abort(&fixed, &headers, 0), None);
        let by_header = fault(Some(FaultDelay::Header), Some(FaultAbort::Header));
        assert_eq!(
            delay(&by_header, &headers, 0),
            Some(Duration::from_millis(250))
        );
        assert_eq!(abort(&by_header, &headers, 0).unwrap().0, 418);
        headers.insert(
            "x-envoy-fault-abort-request-percentage",
            "0".parse().unwrap(),
        );
        assert_eq!(abort(&by_header, &headers, 0), None);
        assert_eq!(delay(&by_header, &HeaderMap::new(), 0), None);
    }
}
