//! `envoy.filters.http.ext_authz`: another service says whether a request may go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::{jwt, status_code};
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::format::Format;
use crate::grpc_service::{GrpcService, HttpService};
use crate::matcher::{Fraction, StringMatcher, StringPattern};
use crate::metadata_matcher::MetadataMatcher;
use crate::pb::extensions::filters::http::ext_authz::v3 as pb;
use crate::pb::{core, google, matcher, types};

/// Envoy's limit of a gRPC call where none is configured.
const DEFAULT_GRPC_TIMEOUT: Duration = Duration::from_millis(200);

/// `ExtAuthz`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: AuthzService,
    /// Requests go on where the service gives no answer.
    pub allow_failure: bool,
    /// They are marked then.
    pub mark_failure: bool,
    /// The body is shown.
    pub body: Option<AuthzBody>,
    /// The request is routed anew if it was changed.
    pub clear_route_cache: bool,
    /// The answer where the service gives none.
    pub status_on_error: StatusCode,
    /// Changes that are no header fields refuse the request.
    pub validate_mutations: bool,
    /// Dynamic metadata that is shown.
    pub metadata_namespaces: Vec<String>,
    /// Metadata of the route that is shown.
    pub route_namespaces: Vec<String>,
    /// Share of requests it asks about.
    pub enabled: Fraction,
    /// Only those whose dynamic metadata fits.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// Those it does not ask about are refused.
    pub deny_at_disable: bool,
    /// The client's certificate is shown.
    pub certificate: bool,
    /// The server name of TLS is shown.
    pub tls_session: bool,
    /// Between `ext_authz.` and the names of statistics.
    pub stat_prefix: Arc<str>,
    /// Headers of the request that are shown; `None` is all.
    pub shown: Option<HeaderList>,
    /// Headers that are not.
    pub hidden: HeaderList,
    /// Header lines are shown as they are, each alone.
    pub raw_headers: bool,
    /// Metadata of the service's answers counts.
    pub takes_metadata: bool,
    /// Refusals count as answers of the route's cluster.
    pub charge: bool,
    /// Bytes of a refusal's body that are passed on; `None` is all.
    pub max_denied_body: Option<usize>,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthzService {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc(GrpcService),
    /// A plain request.
    Http(Box<AuthzHttp>),
}

/// `HttpService`.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzHttp {
    /// Where to.
    pub service: HttpService,
    /// Before the request's path.
    pub path_prefix: String,
    /// Instead of the request's path.
    pub path_override: String,
    legacy_shown: HeaderList,
    /// Added to the question.
    pub add: Vec<(HeaderName, Format)>,
    /// Headers of a yes that the request gets.
    pub to_upstream: HeaderList,
    /// Likewise, beside those it has.
    pub append_upstream: HeaderList,
    /// Headers of a no that the client gets; `None` is all.
    pub to_client: Option<HeaderList>,
    /// Headers of a yes that the client gets.
    pub to_client_on_success: HeaderList,
    /// Headers that become dynamic metadata.
    pub to_metadata: HeaderList,
    /// Further tries.
    pub retries: u32,
}

/// `BufferSettings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthzBody {
    /// Most bytes.
    pub max: u32,
    /// A longer one is shown in part; else it is refused.
    pub partial: bool,
    /// As bytes, whatever they are.
    pub raw: bool,
}

/// Names of headers by matchers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderList(Vec<StringMatcher>);

/// `CheckSettings` of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzOverride {
    /// Shown to the service.
    pub context: BTreeMap<String, String>,
    /// The body; `Some(None)` shows none.
    pub body: Option<Option<AuthzBody>>,
    /// Somebody else is asked.
    pub service: Option<AuthzService>,
}

impl HeaderList {
    fn parse(
        field: &str,
        wire: Option<matcher::ListStringMatcher>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let Some(list) = wire else {
            return Ok(Self::default());
        };
        cx.field(field, |cx| {
            cx.each("patterns", list.patterns, StringMatcher::parse)
        })
        .map(Self)
    }

    /// True if a name is in it; pseudo-headers are named as in HTTP/2.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|matcher| matcher.is_match(name))
    }

    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn with(mut self, names: &[&str]) -> Self {
        self.0.extend(names.iter().map(|name| StringMatcher {
            pattern: StringPattern::Exact((*name).to_owned()),
            ignore_case: true,
        }));
        self
    }
}

fn flag(wire: Option<google::BoolValue>, default: bool) -> bool {
    wire.map_or(default, |value| value.value)
}

fn feature(wire: Option<core::RuntimeFeatureFlag>) -> bool {
    // There is no runtime layer: the default rules.
    wire.is_some_and(|wire| flag(wire.default_value, false))
}

impl ExtAuthz {
    pub(super) fn parse(wire: pb::ExtAuthz, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::ExtAuthz {
            transport_api_version,
            failure_mode_allow,
            failure_mode_allow_header_add,
            with_request_body,
            clear_route_cache,
            status_on_error,
            validate_mutations,
            metadata_context_namespaces,
            typed_metadata_context_namespaces,
            route_metadata_context_namespaces,
            route_typed_metadata_context_namespaces,
            filter_enabled,
            filter_enabled_metadata,
            deny_at_disable,
            include_peer_certificate,
            stat_prefix,
            bootstrap_metadata_labels_key,
            allowed_headers,
            disallowed_headers,
            include_tls_session,
            charge_cluster_response_stats,
            encode_raw_headers,
            decoder_header_mutation_rules,
            enable_dynamic_metadata_ingestion,
            filter_metadata,
            emit_filter_state_stats,
            max_denied_response_body_bytes,
            enforce_response_header_limits,
            shadow_mode,
            emit_client_span,
            services,
        } = wire;
        refuse!(cx; bootstrap_metadata_labels_key, decoder_header_mutation_rules, shadow_mode);
        // Nothing here reads typed metadata or writes such notes, and a codec's limits hold in any case.
        ignorable!(cx; typed_metadata_context_namespaces, route_typed_metadata_context_namespaces,
            filter_metadata, emit_filter_state_stats,
            enforce_response_header_limits, emit_client_span);
        if transport_api_version == core::ApiVersion::V2 as i32 {
            return Err(cx.invalid("transport_api_version", "V2 is no more; use V3"));
        }
        let service = match cx.required("services", services)? {
            pb::ext_authz::Services::GrpcService(grpc) => AuthzService::grpc(grpc, cx)?,
            pb::ext_authz::Services::HttpService(http) => AuthzService::http(http, cx)?,
        };
        let shown = shown_headers(&service, allowed_headers, cx)?;
        Ok(Self {
            shown,
            service,
            allow_failure: failure_mode_allow,
            mark_failure: failure_mode_allow_header_add,
            body: with_request_body
                .map(|body| cx.field("with_request_body", |cx| AuthzBody::parse(body, cx)))
                .transpose()?,
            clear_route_cache,
            status_on_error: on_error(status_on_error, cx)?,
            validate_mutations,
            metadata_namespaces: metadata_context_namespaces,
            route_namespaces: route_metadata_context_namespaces,
            enabled: match filter_enabled {
                Some(share) => {
                    cx.field("filter_enabled", |cx| Fraction::parse_runtime(share, cx))?
                }
                None => Fraction::ALWAYS,
            },
            enabled_metadata: filter_enabled_metadata
                .map(|wire| {
                    cx.field("filter_enabled_metadata", |cx| {
                        MetadataMatcher::parse(wire, cx)
                    })
                })
                .transpose()?,
            deny_at_disable: feature(deny_at_disable),
            certificate: include_peer_certificate,
            tls_session: include_tls_session,
            stat_prefix: stat_prefix.into(),
            hidden: HeaderList::parse("disallowed_headers", disallowed_headers, cx)?,
            raw_headers: encode_raw_headers,
            charge: flag(charge_cluster_response_stats, true),
            takes_metadata: flag(enable_dynamic_metadata_ingestion, true),
            max_denied_body: match max_denied_response_body_bytes {
                0 => None,
                max => Some(max as usize),
            },
        })
    }
}

/// What the service sees of a request's headers: by gRPC all that are not left out, by HTTP the least, and more by wish.
fn shown_headers(
    service: &AuthzService,
    wire: Option<matcher::ListStringMatcher>,
    cx: &mut Cx,
) -> Result<Option<HeaderList>, Invalid> {
    let shown = HeaderList::parse("allowed_headers", wire, cx)?;
    Ok(match service {
        AuthzService::Grpc(_) => (!shown.is_empty()).then_some(shown),
        AuthzService::Http(http) => {
            let always = [":method", ":path", ":authority", "host", "authorization"];
            let mut all = shown.with(&always);
            all.0.extend(http.legacy_shown.0.iter().cloned());
            Some(all)
        }
    })
}

fn on_error(wire: Option<types::HttpStatus>, cx: &Cx) -> Result<StatusCode, Invalid> {
    match wire.map_or(0, |status| status.code) {
        0 => Ok(StatusCode::FORBIDDEN),
        code => status_code("status_on_error", u32::try_from(code).unwrap_or(0), cx),
    }
}

impl AuthzBody {
    fn parse(wire: pb::BufferSettings, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::BufferSettings {
            max_request_bytes,
            allow_partial_message,
            pack_as_bytes,
        } = wire;
        if max_request_bytes == 0 {
            return Err(cx.invalid("max_request_bytes", "must be more than 0"));
        }
        Ok(Self {
            max: max_request_bytes,
            partial: allow_partial_message,
            raw: pack_as_bytes,
        })
    }
}

impl AuthzService {
    pub(crate) fn grpc(wire: core::GrpcService, cx: &mut Cx) -> Result<Self, Invalid> {
        let mut service = cx.field("grpc_service", |cx| GrpcService::parse(wire, cx))?;
        service.timeout = Some(service.timeout.unwrap_or(DEFAULT_GRPC_TIMEOUT));
        Ok(Self::Grpc(service))
    }

    fn http(wire: pb::HttpService, cx: &mut Cx) -> Result<Self, Invalid> {
        cx.field("http_service", |cx| AuthzHttp::parse(wire, cx))
            .map(|http| Self::Http(Box::new(http)))
    }
}

impl AuthzHttp {
    fn parse(wire: pb::HttpService, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::HttpService {
            server_uri,
            path_prefix,
            path_override,
            authorization_request,
            authorization_response,
            retry_policy,
        } = wire;
        if !path_prefix.is_empty() && !path_override.is_empty() {
            return Err(cx.invalid("path_override", "path_prefix is there already"));
        }
        for (field, path) in [
            ("path_prefix", &path_prefix),
            ("path_override", &path_override),
        ] {
            if !path.is_empty() && !path.starts_with('/') {
                return Err(cx.invalid(field, format!("`{path}` must begin with /")));
            }
        }
        let pb::AuthorizationRequest {
            allowed_headers,
            headers_to_add,
        } = authorization_request.unwrap_or_default();
        let pb::AuthorizationResponse {
            allowed_upstream_headers,
            allowed_upstream_headers_to_append,
            allowed_client_headers,
            allowed_client_headers_on_success,
            dynamic_metadata_from_headers,
        } = authorization_response.unwrap_or_default();
        let to_client = HeaderList::parse(
            "authorization_response.allowed_client_headers",
            allowed_client_headers,
            cx,
        )?;
        let list = |field: &str, wire, cx: &mut Cx| {
            HeaderList::parse(&format!("authorization_response.{field}"), wire, cx)
        };
        let retries = match retry_policy {
            None => 0,
            Some(policy) => cx.field("retry_policy", |cx| jwt::retries(policy, cx))?.0,
        };
        let service = core::HttpService {
            http_uri: server_uri,
            ..core::HttpService::default()
        };
        Ok(Self {
            service: cx.field("server_uri", |cx| HttpService::parse(service, cx))?,
            path_prefix,
            path_override,
            legacy_shown: HeaderList::parse(
                "authorization_request.allowed_headers",
                allowed_headers,
                cx,
            )?,
            add: cx.each(
                "authorization_request.headers_to_add",
                headers_to_add,
                header,
            )?,
            to_upstream: list("allowed_upstream_headers", allowed_upstream_headers, cx)?,
            append_upstream: list(
                "allowed_upstream_headers_to_append",
                allowed_upstream_headers_to_append,
                cx,
            )?,
            to_client: (!to_client.is_empty()).then(|| {
                to_client.with(&[
                    "content-length",
                    "path",
                    "status",
                    "www-authenticate",
                    "location",
                    "host",
                ])
            }),
            to_client_on_success: list(
                "allowed_client_headers_on_success",
                allowed_client_headers_on_success,
                cx,
            )?,
            to_metadata: list(
                "dynamic_metadata_from_headers",
                dynamic_metadata_from_headers,
                cx,
            )?,
            retries,
        })
    }
}

fn header(wire: core::HeaderValue, cx: &mut Cx) -> Result<(HeaderName, Format), Invalid> {
    let core::HeaderValue {
        key,
        value,
        raw_value,
    } = wire;
    refuse!(cx; raw_value);
    let name = key
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| cx.invalid("key", format!("`{key}` is not a header name")))?;
    let format = Format::compile(&value).map_err(|reason| cx.invalid("value", reason))?;
    Ok((name, format))
}

impl AuthzOverride {
    pub(super) fn parse(wire: pb::CheckSettings, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::check_settings::ServiceOverride;
        let pb::CheckSettings {
            context_extensions,
            disable_request_body_buffering,
            with_request_body,
            emit_client_span,
            service_override,
        } = wire;
        ignorable!(cx; emit_client_span);
        let body = match (disable_request_body_buffering, with_request_body) {
            (true, Some(_)) => {
                return Err(cx.invalid(
                    "with_request_body",
                    "disable_request_body_buffering is there already",
                ));
            }
            (true, None) => Some(None),
            (false, Some(body)) => {
                Some(Some(cx.field("with_request_body", |cx| {
                    AuthzBody::parse(body, cx)
                })?))
            }
            (false, None) => None,
        };
        Ok(Self {
            context: context_extensions.into_iter().collect(),
            body,
            service: match service_override {
                None => None,
                Some(ServiceOverride::GrpcService(grpc)) => Some(AuthzService::grpc(grpc, cx)?),
                Some(ServiceOverride::HttpService(http)) => Some(AuthzService::http(http, cx)?),
            },
        })
    }
}
