//! HTTP filters, and what a virtual host, route or weighted cluster says about them.
//!
//! One file a filter; here is what they share: the list of a manager, and the overrides of routing by filter name.

mod alpn;
mod cors;
mod discovered;
mod ext_authz;
mod fault;
mod grpc_stats;
mod header_mutation;
mod health_check;
mod jwt;
mod local_rate_limit;
mod rate_limit;
mod rbac;
mod router;
mod set_filter_state;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::cors::CorsPolicy;
pub use self::discovered::{Discovered, Extension};
pub use self::ext_authz::{
    AuthzBody, AuthzHttp, AuthzOverride, AuthzService, ExtAuthz, HeaderList,
};
pub(crate) use self::fault::status_code;
pub use self::fault::{Fault, FaultAbort, FaultDelay};
pub use self::grpc_stats::{GrpcStats, Methods as GrpcStatsMethods};
pub use self::header_mutation::{HeaderEdit, HeaderMutation, Mutations, QueryEdit};
pub use self::health_check::HealthCheck;
pub use self::jwt::{
    JwksSource, JwtAuthn, JwtOverride, JwtProvider, JwtRule, RemoteJwks, Requirement,
    TokenLocation, sanitized,
};
pub use self::local_rate_limit::{LocalDescriptor, LocalRateLimit};
pub use self::rate_limit::{HttpRateLimit, RateLimitPerRoute, RequestKind};
pub use self::rbac::HttpRbac;
pub use self::router::RouterFilter;
pub use self::set_filter_state::{SetFilterState, StateNote, TCP_CLUSTER};
use crate::checked::{Cx, Invalid, type_name};
use crate::istio_stats::StatsConfig;
use crate::pb::extensions::filters::http as ext;
use crate::pb::{Any, hcm, route as pb};
use crate::peer_metadata::PeerMetadata;

/// Left out with a warning: whoever accepts a compressed answer takes one that is not, and Istio's own bootstrap has three.
const COMPRESSOR: &str = "envoy.extensions.filters.http.compressor.v3.Compressor";
const COMPRESSOR_OVERRIDE: &str = "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute";

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
    /// Asks requests for tokens.
    Jwt(Arc<JwtAuthn>),
    /// Asks another service.
    ExtAuthz(Arc<ExtAuthz>),
    /// `envoy.filters.http.local_ratelimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.filters.http.ratelimit`.
    RateLimit(Arc<HttpRateLimit>),
    /// `envoy.filters.http.header_mutation`.
    HeaderMutation(Arc<HeaderMutation>),
    /// `envoy.filters.http.health_check`.
    HealthCheck(Arc<HealthCheck>),
    /// `envoy.filters.http.buffer`: whole requests of so many bytes at most.
    Buffer(u64),
    /// `envoy.filters.http.grpc_stats`: counts gRPC calls and messages.
    GrpcStats(Arc<GrpcStats>),
    /// `envoy.filters.http.set_filter_state`.
    SetFilterState(Arc<SetFilterState>),
    /// `envoy.filters.http.grpc_web`: gRPC for browsers.
    GrpcWeb,
    /// `istio.alpn`: HTTP in the mesh is said to be HTTP. This proxy does that by itself.
    IstioAlpn,
    /// `istio.stats`: Istio's standard metrics.
    IstioStats(Arc<StatsConfig>),
    /// `io.istio.http.peer_metadata`: proxies tell each other who they are.
    PeerMetadata(Arc<PeerMetadata>),
    /// Whatever comes under its name (`config_discovery`).
    Discovered(Arc<Discovered>),
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
    /// Tokens as this says.
    Jwt(JwtOverride),
    /// Another service is asked as this says.
    ExtAuthz(Arc<AuthzOverride>),
    /// Local rate limit with this configuration.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Rate limit, decided otherwise.
    RateLimit(Arc<RateLimitPerRoute>),
    /// These changes of headers too.
    HeaderMutation(Arc<Mutations>),
    /// Buffered to this limit.
    Buffer(u64),
    /// These notes instead.
    SetFilterState(Arc<SetFilterState>),
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
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
                let wire = cx.unpack("", any)?;
                Self::LocalRateLimit(Arc::new(LocalRateLimit::parse(wire, true, cx)?))
            }
            "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" => {
                Self::RateLimit(Arc::new(RateLimitPerRoute::parse(cx.unpack("", any)?, cx)?))
            }
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
                let ext::header_mutation::v3::HeaderMutationPerRoute { mutations } =
                    cx.unpack("", any)?;
                Self::HeaderMutation(Arc::new(Mutations::parse(mutations, cx)?))
            }
            "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
                let wire = cx.unpack("", any)?;
                Self::SetFilterState(Arc::new(SetFilterState::parse(wire, cx)?))
            }
            "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => {
                use ext::buffer::v3::buffer_per_route::Override;
                let ext::buffer::v3::BufferPerRoute { r#override } = cx.unpack("", any)?;
                match cx.required("override", r#override)? {
                    Override::Disabled(true) => Self::Disabled,
                    Override::Disabled(false) => {
                        return Err(cx.invalid("disabled", "must be true"));
                    }
                    Override::Buffer(wire) => {
                        Self::Buffer(cx.field("buffer", |cx| buffer_limit(wire, cx))?)
                    }
                }
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
            "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
                use ext::ext_authz::v3::ext_authz_per_route::Override;
                let ext::ext_authz::v3::ExtAuthzPerRoute { r#override } = cx.unpack("", any)?;
                match cx.required("override", r#override)? {
                    Override::Disabled(true) => Self::Disabled,
                    Override::Disabled(false) => Self::Enabled,
                    Override::CheckSettings(settings) => Self::ExtAuthz(Arc::new(
                        cx.field("check_settings", |cx| AuthzOverride::parse(settings, cx))?,
                    )),
                }
            }
            "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
                use ext::jwt_authn::v3::per_route_config::RequirementSpecifier;
                let ext::jwt_authn::v3::PerRouteConfig {
                    requirement_specifier,
                } = cx.unpack("", any)?;
                match cx.required("requirement_specifier", requirement_specifier)? {
                    RequirementSpecifier::Disabled(_) => Self::Jwt(JwtOverride::Off),
                    RequirementSpecifier::RequirementName(name) => {
                        Self::Jwt(JwtOverride::Named(name))
                    }
                }
            }
            COMPRESSOR_OVERRIDE => return Ok(None),
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
            Some(ConfigType::ConfigDiscovery(wire)) => {
                let found = cx.field("config_discovery", |cx| Discovered::parse(&name, wire, cx));
                return found.map(|found| {
                    Some(Self {
                        name: name.into(),
                        disabled,
                        kind: HttpFilterKind::Discovered(Arc::new(found)),
                    })
                });
            }
            None => return Err(cx.invalid("typed_config", "is required")),
        };
        if type_name(&any) == COMPRESSOR {
            cx.warn("typed_config", "answers are not compressed by this proxy");
            return Ok(None);
        }
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
            "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => Ok(Self::Jwt(
                Arc::new(JwtAuthn::parse(cx.unpack("", any)?, cx)?),
            )),
            "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" => Ok(Self::ExtAuthz(Arc::new(
                ExtAuthz::parse(cx.unpack("", any)?, cx)?,
            ))),
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
                let wire = cx.unpack("", any)?;
                LocalRateLimit::parse(wire, false, cx).map(|it| Self::LocalRateLimit(Arc::new(it)))
            }
            "envoy.extensions.filters.http.ratelimit.v3.RateLimit" => {
                HttpRateLimit::parse(cx.unpack("", any)?, cx)
                    .map(|it| Self::RateLimit(Arc::new(it)))
            }
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" => {
                HeaderMutation::parse(cx.unpack("", any)?, cx)
                    .map(|it| Self::HeaderMutation(Arc::new(it)))
            }
            "envoy.extensions.filters.http.health_check.v3.HealthCheck" => {
                HealthCheck::parse(cx.unpack("", any)?, cx)
                    .map(|it| Self::HealthCheck(Arc::new(it)))
            }
            "envoy.extensions.filters.http.buffer.v3.Buffer" => {
                buffer_limit(cx.unpack("", any)?, cx).map(Self::Buffer)
            }
            "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb" => {
                let ext::grpc_web::v3::GrpcWeb {} = cx.unpack("", any)?;
                Ok(Self::GrpcWeb)
            }
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
                GrpcStats::parse(cx.unpack("", any)?, cx).map(|it| Self::GrpcStats(Arc::new(it)))
            }
            "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
                SetFilterState::parse(cx.unpack("", any)?, cx)
                    .map(|it| Self::SetFilterState(Arc::new(it)))
            }
            "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
                alpn::check(cx.unpack("", any)?, cx)?;
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

/// The most bytes of a request that a buffer takes.
fn buffer_limit(wire: ext::buffer::v3::Buffer, cx: &Cx) -> Result<u64, Invalid> {
    let ext::buffer::v3::Buffer { max_request_bytes } = wire;
    let max = cx.required("max_request_bytes", max_request_bytes)?.value;
    if max == 0 {
        return Err(cx.invalid("max_request_bytes", "must be more than 0"));
    }
    Ok(max.into())
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
