//! HTTP filters, and what a virtual host, route or weighted cluster says about them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use malla_xds_proto::istio_filters::{AlpnConfig, AlpnOverride, AlpnProtocol};

use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};
use crate::istio_stats::StatsConfig;
use crate::matcher::{Fraction, StringMatcher};
use crate::pb::extensions::filters::common::fault::v3 as common_fault;
use crate::pb::extensions::filters::http as ext;
use crate::pb::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use crate::pb::google::BoolValue;
use crate::pb::{Any, hcm, route as pb};
use crate::peer_metadata::PeerMetadata;
use crate::rbac::Rbac;
use crate::request::HeaderMatcher;

/// One filter of an HTTP connection manager, in order.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// The name that `typed_per_filter_config` refers to.
    pub name: Arc<str>,
    /// Off unless a route switches it on.
    pub disabled: bool,
    /// What it does.
    pub kind: HttpFilterKind,
}

/// The HTTP filters this proxy has.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// Always the last.
    Router(RouterFilter),
    /// Delays and aborts.
    Fault(Arc<Fault>),
    /// CORS; all policy is per route.
    Cors,
    /// Access control.
    Rbac(Arc<HttpRbac>),
    /// `envoy.filters.http.grpc_stats`: counts gRPC successes and failures of clusters.
    GrpcStats,
    /// `istio.alpn`: HTTP in the mesh is said to be HTTP. This proxy does that by itself.
    IstioAlpn,
    /// `istio.stats`: Istio's standard metrics.
    IstioStats(Arc<StatsConfig>),
    /// `io.istio.http.peer_metadata`: proxies tell each other who they are.
    PeerMetadata(Arc<PeerMetadata>),
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterFilter {
    /// Add no `x-envoy-*` headers.
    pub suppress_envoy_headers: bool,
    /// Take the timeout from `x-envoy-expected-rq-timeout-ms` of the request.
    pub respect_expected_timeout: bool,
    /// A span for each try, where the manager traces.
    pub start_child_span: bool,
}

/// `envoy.extensions.filters.http.fault.v3.HTTPFault`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Wait before going on.
    pub delay: Option<(Fraction, FaultDelay)>,
    /// Answer at once.
    pub abort: Option<(Fraction, FaultAbort)>,
    /// Only for requests to this cluster.
    pub upstream_cluster: Option<String>,
    /// Only for requests that match all of these.
    pub headers: Vec<HeaderMatcher>,
    /// Only for these values of `x-envoy-downstream-service-node`.
    pub downstream_nodes: Vec<String>,
    /// At most so many at a time.
    pub max_active: Option<u64>,
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultDelay {
    /// Always the same.
    Fixed(Duration),
    /// What `x-envoy-fault-delay-request` says, in milliseconds.
    Header,
}

/// With what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbort {
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC status.
    Grpc(u32),
    /// What `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says.
    Header,
}

/// `envoy.extensions.filters.http.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRbac {
    /// Enforced rules; `None` allows all.
    pub rules: Option<Rbac>,
    /// Rules only counted and recorded.
    pub shadow: Option<Rbac>,
    /// Prefix of the statistics of the enforced rules.
    pub stat_prefix: Arc<str>,
    /// Prefix of those of the shadow rules and of their metadata.
    pub shadow_prefix: Arc<str>,
}

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct CorsPolicy {
    /// Allowed origins.
    pub origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub methods: Option<HeaderValue>,
    /// `access-control-allow-headers`.
    pub headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose: Option<HeaderValue>,
    /// `access-control-max-age`.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials: true`.
    pub credentials: bool,
    /// `access-control-allow-private-network: true`.
    pub private_network: bool,
    /// A preflight with an origin that is not allowed goes upstream.
    pub forward_unmatched_preflights: bool,
    /// Share of requests it applies to.
    pub enabled: Fraction,
}

/// What one level of routing says about filters, by filter name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerFilter(Vec<(Arc<str>, FilterOverride)>);

/// What a level says about one filter.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterOverride {
    /// Off here.
    Disabled,
    /// On here with its own configuration (for a filter that is off by default).
    Enabled,
    /// Fault with this configuration.
    Fault(Arc<Fault>),
    /// CORS with this policy.
    Cors(Arc<CorsPolicy>),
    /// RBAC with this configuration.
    Rbac(Arc<HttpRbac>),
}

impl PerFilter {
    /// What this level says about the filter.
    pub fn get(&self, name: &str) -> Option<&FilterOverride> {
        self.0
            .iter()
            .find(|(filter, _)| **filter == *name)
            .map(|(_, config)| config)
    }

    /// True if this level says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn parse(wire: HashMap<String, Any>, cx: &mut Cx) -> Result<Self, Invalid> {
        let mut out = Vec::new();
        for (name, any) in wire {
            let field = format!("typed_per_filter_config[{name}]");
            if let Some(config) = cx.field(&field, |cx| FilterOverride::parse(&any, cx))? {
                out.push((name.into(), config));
            }
        }
        out.sort_by(|(left, _): &(Arc<str>, _), (right, _)| left.cmp(right));
        Ok(Self(out))
    }

    /// Adds a policy from the old `cors` field of virtual hosts and routes, unless the typed one is there.
    pub(crate) fn add_legacy_cors(
        &mut self,
        wire: Option<pb::CorsPolicy>,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        const CORS: &str = "envoy.filters.http.cors";
        let Some(wire) = wire else { return Ok(()) };
        if self.get(CORS).is_none() {
            let policy = cx.field("cors", |cx| CorsPolicy::parse_legacy(wire, cx))?;
            self.0
                .push((CORS.into(), FilterOverride::Cors(Arc::new(policy))));
        }
        Ok(())
    }
}

impl FilterOverride {
    fn parse(any: &Any, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        let name = type_name(any);
        if name == "envoy.config.route.v3.FilterConfig" {
            let pb::FilterConfig {
                config,
                is_optional,
                disabled,
            } = cx.unpack("", any)?;
            return match config.filter(|config| !config.type_url.is_empty()) {
                _ if disabled => Ok(Some(Self::Disabled)),
                None => Ok(Some(Self::Enabled)),
                Some(config) => match cx.field("config", |cx| Self::parse(&config, cx)) {
                    Err(error) if is_optional => {
                        cx.warn(
                            "config",
                            format!("optional and not understood: {}", error.reason),
                        );
                        Ok(None)
                    }
                    parsed => parsed,
                },
            };
        }
        Ok(Some(match name.as_str() {
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
                Self::Fault(Arc::new(Fault::parse(cx.unpack("", any)?, cx)?))
            }
            "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
                Self::Cors(Arc::new(CorsPolicy::parse(cx.unpack("", any)?, cx)?))
            }
            "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
                let ext::rbac::v3::RbacPerRoute { rbac } = cx.unpack("", any)?;
                match rbac {
                    None => Self::Disabled,
                    Some(rbac) => {
                        Self::Rbac(Arc::new(cx.field("rbac", |cx| HttpRbac::parse(rbac, cx))?))
                    }
                }
            }
            other => {
                return Err(cx.invalid(
                    "",
                    format!("filter configuration {other} is not supported by this proxy"),
                ));
            }
        }))
    }
}

impl HttpFilter {
    /// Parses the filter list; the last must be the router and only the last may be.
    pub(crate) fn parse_all(
        wire: Vec<hcm::HttpFilter>,
        cx: &mut Cx,
    ) -> Result<(Vec<Self>, RouterFilter), Invalid> {
        let parsed: Vec<Option<Self>> = cx.each("http_filters", wire, Self::parse)?;
        let mut filters: Vec<Self> = parsed.into_iter().flatten().collect();
        let router = match filters.pop().map(|filter| filter.kind) {
            Some(HttpFilterKind::Router(router)) => router,
            _ => {
                return Err(cx.invalid(
                    "http_filters",
                    "the last filter must be envoy.filters.http.router",
                ));
            }
        };
        if filters
            .iter()
            .any(|filter| matches!(filter.kind, HttpFilterKind::Router(_)))
        {
            return Err(cx.invalid("http_filters", "the router must be the last filter"));
        }
        Ok((filters, router))
    }

    fn parse(wire: hcm::HttpFilter, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        use hcm::http_filter::ConfigType;
        let hcm::HttpFilter {
            name,
            is_optional,
            disabled,
            config_type,
        } = wire;
        let any = match config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(_)) if is_optional => {
                cx.warn(
                    "config_discovery",
                    "optional and not supported by this proxy",
                );
                return Ok(None);
            }
            Some(ConfigType::ConfigDiscovery(_)) => {
                return Err(cx.invalid(
                    "config_discovery",
                    "not supported by this proxy; use typed_config",
                ));
            }
            None => return Err(cx.invalid("typed_config", "is required")),
        };
        match cx.field("typed_config", |cx| HttpFilterKind::parse(&any, cx)) {
            Ok(kind) => Ok(Some(Self {
                name: name.into(),
                disabled,
                kind,
            })),
            Err(error) if is_optional => {
                cx.warn(
                    "typed_config",
                    format!("optional and not understood: {}", error.reason),
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl HttpFilterKind {
    fn parse(any: &Any, cx: &mut Cx) -> Result<Self, Invalid> {
        match type_name(any).as_str() {
            "envoy.extensions.filters.http.router.v3.Router" => {
                Ok(Self::Router(RouterFilter::parse(cx.unpack("", any)?, cx)?))
            }
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => Ok(Self::Fault(Arc::new(
                Fault::parse(cx.unpack("", any)?, cx)?,
            ))),
            "envoy.extensions.filters.http.cors.v3.Cors" => {
                let ext::cors::v3::Cors {} = cx.unpack("", any)?;
                Ok(Self::Cors)
            }
            "envoy.extensions.filters.http.rbac.v3.RBAC" => Ok(Self::Rbac(Arc::new(
                HttpRbac::parse(cx.unpack("", any)?, cx)?,
            ))),
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
                let ext::grpc_stats::v3::FilterConfig {
                    emit_filter_state,
                    enable_upstream_stats,
                    replace_dots_in_grpc_service_name,
                    per_method_stat_specifier,
                } = cx.unpack("", any)?;
                // Totals of each cluster are kept, with this filter or without; those by method are left out.
                ignorable!(cx; emit_filter_state, enable_upstream_stats, replace_dots_in_grpc_service_name);
                let off = PerMethodStatSpecifier::StatsForAllMethods(BoolValue { value: false });
                if per_method_stat_specifier.as_ref() != Some(&off) {
                    ignorable!(cx; per_method_stat_specifier);
                }
                Ok(Self::GrpcStats)
            }
            "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
                check_alpn(cx.unpack("", any)?, cx)?;
                Ok(Self::IstioAlpn)
            }
            "stats.PluginConfig" => Ok(Self::IstioStats(Arc::new(StatsConfig::parse(
                cx.unpack("", any)?,
                cx,
            )?))),
            "io.istio.http.peer_metadata.Config" => Ok(Self::PeerMetadata(Arc::new(
                PeerMetadata::parse(cx.unpack("", any)?, cx)?,
            ))),
            other => Err(cx.invalid(
                "",
                format!("HTTP filter {other} is not supported by this proxy"),
            )),
        }
    }
}

/// What this proxy says of HTTP within TLS is what Istio asks for; anything else it would not say.
fn check_alpn(wire: AlpnConfig, cx: &mut Cx) -> Result<(), Invalid> {
    let AlpnConfig { alpn_override } = wire;
    for (
        index,
        AlpnOverride {
            upstream_protocol,
            alpn_override,
        },
    ) in alpn_override.into_iter().enumerate()
    {
        let field = format!("alpn_override[{index}]");
        let said = match cx.enumeration(&field, upstream_protocol)? {
            AlpnProtocol::Http10 => ["istio-http/1.0", "istio", "http/1.0"],
            AlpnProtocol::Http11 => ["istio-http/1.1", "istio", "http/1.1"],
            AlpnProtocol::Http2 => ["istio-h2", "istio", "h2"],
        };
        if alpn_override != said {
            cx.warn(
                &field,
                format!("has no effect in this proxy, which offers {said:?}"),
            );
        }
    }
    Ok(())
}

impl RouterFilter {
    fn parse(wire: ext::router::v3::Router, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::router::v3::Router {
            dynamic_stats,
            start_child_span,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data,
        } = wire;
        refuse!(cx; upstream_log, upstream_log_options, strict_check_headers, upstream_http_filters,
            reject_connect_request_early_data);
        ignorable!(cx; dynamic_stats, suppress_grpc_request_failure_code_stats);
        Ok(Self {
            suppress_envoy_headers,
            respect_expected_timeout: respect_expected_rq_timeout,
            start_child_span,
        })
    }
}

impl Fault {
    fn parse(wire: ext::fault::v3::HttpFault, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::fault::v3::HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
            filter_metadata,
        } = wire;
        refuse!(cx; response_rate_limit, filter_metadata);
        // There is no runtime layer: configured values always rule.
        ignorable!(cx; delay_percent_runtime, abort_percent_runtime, delay_duration_runtime,
            abort_http_status_runtime, max_active_faults_runtime, response_rate_limit_percent_runtime,
            abort_grpc_status_runtime, disable_downstream_cluster_stats);
        Ok(Self {
            delay: delay
                .map(|delay| cx.field("delay", |cx| parse_delay(delay, cx)))
                .transpose()?,
            abort: abort
                .map(|abort| cx.field("abort", |cx| parse_abort(abort, cx)))
                .transpose()?,
            upstream_cluster: (!upstream_cluster.is_empty()).then_some(upstream_cluster),
            headers: cx.each("headers", headers, HeaderMatcher::parse)?,
            downstream_nodes,
            max_active: max_active_faults.map(|max| max.value.into()),
        })
    }
}

fn share(
    wire: Option<crate::pb::types::FractionalPercent>,
    cx: &mut Cx,
) -> Result<Fraction, Invalid> {
    match wire {
        Some(share) => cx.field("percentage", |cx| Fraction::parse(share, cx)),
        None => Ok(Fraction::NEVER),
    }
}

fn parse_delay(
    wire: common_fault::FaultDelay,
    cx: &mut Cx,
) -> Result<(Fraction, FaultDelay), Invalid> {
    use common_fault::fault_delay::FaultDelaySecifier;
    let common_fault::FaultDelay {
        percentage,
        fault_delay_secifier,
        ..
    } = wire;
    let delay = match cx.required("fixed_delay", fault_delay_secifier)? {
        FaultDelaySecifier::FixedDelay(delay) => {
            let delay = cx.duration("fixed_delay", Some(delay))?.unwrap_or_default();
            if delay.is_zero() {
                return Err(cx.invalid("fixed_delay", "must be more than 0s"));
            }
            FaultDelay::Fixed(delay)
        }
        FaultDelaySecifier::HeaderDelay(_) => FaultDelay::Header,
    };
    Ok((share(percentage, cx)?, delay))
}

fn parse_abort(
    wire: ext::fault::v3::FaultAbort,
    cx: &mut Cx,
) -> Result<(Fraction, FaultAbort), Invalid> {
    use ext::fault::v3::fault_abort::ErrorType;
    let ext::fault::v3::FaultAbort {
        percentage,
        response_body,
        error_type,
    } = wire;
    refuse!(cx; response_body);
    let abort = match cx.required("http_status", error_type)? {
        ErrorType::HttpStatus(status) => FaultAbort::Http(status_code("http_status", status, cx)?),
        ErrorType::GrpcStatus(status) => FaultAbort::Grpc(status),
        ErrorType::HeaderAbort(_) => FaultAbort::Header,
    };
    Ok((share(percentage, cx)?, abort))
}

/// A status from 200 to 599.
pub(crate) fn status_code(field: &str, status: u32, cx: &Cx) -> Result<StatusCode, Invalid> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| cx.invalid(field, format!("{status} is not a status from 200 to 599")))
}

impl HttpRbac {
    fn parse(wire: ext::rbac::v3::Rbac, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::rbac::v3::Rbac {
            rules,
            rules_stat_prefix,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            track_per_rule_stats,
        } = wire;
        refuse!(cx; matcher, shadow_matcher);
        ignorable!(cx; track_per_rule_stats);
        Ok(Self {
            rules: Rbac::parse_optional("rules", rules, cx)?,
            shadow: Rbac::parse_optional("shadow_rules", shadow_rules, cx)?,
            stat_prefix: rules_stat_prefix.into(),
            shadow_prefix: shadow_rules_stat_prefix.into(),
        })
    }
}

/// Values of the headers a policy adds, checked once.
fn header_value(field: &str, text: String, cx: &Cx) -> Result<Option<HeaderValue>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .map(Some)
        .map_err(|_| cx.invalid(field, "has characters that no header may have"))
}

impl CorsPolicy {
    fn parse(wire: ext::cors::v3::CorsPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::cors::v3::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = wire;
        ignorable!(cx; shadow_enabled);
        let enabled = match filter_enabled {
            Some(share) => cx.field("filter_enabled", |cx| Fraction::parse_runtime(share, cx))?,
            None => Fraction::ALWAYS,
        };
        Ok(Self {
            origins: cx.each(
                "allow_origin_string_match",
                allow_origin_string_match,
                StringMatcher::parse,
            )?,
            methods: header_value("allow_methods", allow_methods, cx)?,
            headers: header_value("allow_headers", allow_headers, cx)?,
            expose: header_value("expose_headers", expose_headers, cx)?,
            max_age: header_value("max_age", max_age, cx)?,
            credentials: allow_credentials.is_some_and(|value| value.value),
            private_network: allow_private_network_access.is_some_and(|value| value.value),
            forward_unmatched_preflights: forward_not_matching_preflights
                .is_none_or(|value| value.value),
            enabled,
        })
    }

    fn parse_legacy(wire: pb::CorsPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::cors_policy::EnabledSpecifier;
        let pb::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
            enabled_specifier,
        } = wire;
        let filter_enabled = enabled_specifier.map(|EnabledSpecifier::FilterEnabled(share)| share);
        Self::parse(
            ext::cors::v3::CorsPolicy {
                allow_origin_string_match,
                allow_methods,
                allow_headers,
                expose_headers,
                max_age,
                allow_credentials,
                filter_enabled,
                shadow_enabled,
                allow_private_network_access,
                forward_not_matching_preflights,
            },
            cx,
        )
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::json;
    use serde_json::{Value, json};

    use super::{HttpFilter, HttpFilterKind};
    use crate::checked::{Checked, Cx, Invalid};
    use crate::pb::hcm;

    fn parse(configs: Vec<Value>) -> Result<Checked<Vec<HttpFilter>>, Invalid> {
        let wire = configs.into_iter().map(|config| {
            let any = json::any_from_value(config).unwrap();
            hcm::HttpFilter {
                name: "any".into(),
                config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any)),
                ..hcm::HttpFilter::default()
            }
        });
        Cx::check(|cx| Ok(HttpFilter::parse_all(wire.collect(), cx)?.0))
    }

    fn typed(name: &str, mut more: Value) -> Value {
        more["@type"] = format!("type.googleapis.com/{name}").into();
        more
    }

    /// As istiod 1.30 sends them to a sidecar's outbound listener.
    fn of_istiod(alpn: [&str; 3]) -> Vec<Value> {
        vec![
            typed(
                "io.istio.http.peer_metadata.Config",
                json!({
                    "upstream_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}],
                    "upstream_propagation": [{"istio_headers": {}}],
                }),
            ),
            typed(
                "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
                json!({"alpn_override": [
                    {"alpn_override": ["istio-http/1.0", "istio", "http/1.0"]},
                    {"upstream_protocol": "HTTP11", "alpn_override": alpn},
                    {"upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "istio", "h2"]},
                ]}),
            ),
            typed(
                "envoy.extensions.filters.http.fault.v3.HTTPFault",
                json!({}),
            ),
            typed("envoy.extensions.filters.http.cors.v3.Cors", json!({})),
            typed("stats.PluginConfig", json!({})),
            typed("envoy.extensions.filters.http.router.v3.Router", json!({})),
        ]
    }

    #[test]
    fn filters_of_a_real_istiod_are_taken_without_a_word() {
        let checked = parse(of_istiod(["istio-http/1.1", "istio", "http/1.1"])).unwrap();
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        assert_eq!(checked.value.len(), 5);
        assert!(matches!(checked.value[1].kind, HttpFilterKind::IstioAlpn));
        assert!(matches!(
            checked.value[4].kind,
            HttpFilterKind::IstioStats(_)
        ));
    }

    #[test]
    fn protocols_this_proxy_would_not_offer_are_named() {
        let checked = parse(of_istiod(["mine", "istio", "http/1.1"])).unwrap();
        let [warning] = &checked.warnings[..] else {
            panic!("{:?}", checked.warnings);
        };
        assert_eq!(
            warning.path,
            "http_filters[1].typed_config.alpn_override[1]"
        );
    }
}
