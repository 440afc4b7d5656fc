//! Health checks that ask this proxy.

use std::sync::Arc;
use std::time::Duration;

use crate::checked::{Cx, Invalid};
use crate::held::Held;
use crate::pb::extensions::filters::http as ext;
use crate::request::HeaderMatcher;

/// `envoy.extensions.filters.http.health_check.v3.HealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// The application answers, unless this proxy is failing or remembers its answer.
    pub pass_through: bool,
    /// How long an answer of the application is remembered.
    pub cache: Option<Duration>,
    /// This proxy is healthy while each of these clusters has so many percent of healthy hosts.
    pub clusters: Vec<(Arc<str>, f64)>,
    /// Requests that match all of these are health checks.
    pub headers: Vec<HeaderMatcher>,
    /// The answer that is remembered.
    pub held: Held,
}

impl HealthCheck {
    pub(super) fn parse(
        wire: ext::health_check::v3::HealthCheck,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let ext::health_check::v3::HealthCheck {
            pass_through_mode,
            cache_time,
            cluster_min_healthy_percentages,
            headers,
        } = wire;
        let pass_through = cx.required("pass_through_mode", pass_through_mode)?.value;
        let cache = cx
            .duration("cache_time", cache_time)?
            .filter(|time| !time.is_zero());
        if cache.is_some() && !pass_through {
            return Err(cx.invalid("cache_time", "needs pass_through_mode"));
        }
        let mut clusters: Vec<(Arc<str>, f64)> = cluster_min_healthy_percentages
            .into_iter()
            .map(|(name, percent)| (name.into(), percent.value))
            .collect();
        if !clusters.is_empty() && pass_through {
            return Err(cx.invalid(
                "cluster_min_healthy_percentages",
                "must be empty in pass_through_mode",
            ));
        }
        clusters.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(Self {
            pass_through,
            cache,
            clusters,
            headers: cx.each("headers", headers, HeaderMatcher::parse)?,
            held: Held::default(),
        })
    }
}
