//! `envoy.filters.http.jwt_authn`: which tokens are asked of which requests, and where their keys come from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::checked::{Cx, Invalid, refuse};
use crate::grpc_service::HttpService;
use crate::matcher::StringMatcher;
use crate::pb::core::{self, data_source::Specifier};
use crate::pb::extensions::filters::http::jwt_authn::v3 as pb;
use crate::route::matcher::RouteMatch;

/// Requirements may nest, but not for ever.
const MAX_DEPTH: u32 = 16;
/// Envoy's default for remote keys.
const DEFAULT_CACHE: Duration = Duration::from_secs(600);
/// Envoy's default wait after a failed fetch in the background.
const DEFAULT_REFETCH: Duration = Duration::from_secs(1);
/// Envoy's default allowance for clocks that differ.
const DEFAULT_SKEW: u32 = 60;
/// Envoy's defaults of the cache of tokens.
const DEFAULT_CACHE_SIZE: u32 = 100;
const DEFAULT_CACHED_TOKEN: u32 = 4096;
/// Tokens that one worker may keep, whatever is configured.
const MAX_CACHE_SIZE: u32 = 10_000;

/// `JwtAuthentication`.
#[derive(Debug, Clone)]
pub struct JwtAuthn {
    /// Sorted by name; requirements refer to their places.
    pub providers: Vec<JwtProvider>,
    /// The first that fits counts.
    pub rules: Vec<JwtRule>,
    /// If no rule fits: requirements by the text of an object in filter state.
    pub by_state: Option<(String, BTreeMap<String, Requirement>)>,
    /// Preflights carry no tokens.
    pub bypass_preflight: bool,
    /// What routes refer to.
    pub named: BTreeMap<String, Option<Requirement>>,
    /// Failures are answered without a body, and without details in the header.
    pub strip_failure: bool,
    /// Between `jwt_authn.` and the names of statistics.
    pub stat_prefix: Arc<str>,
}

/// `RequirementRule`.
#[derive(Debug, Clone)]
pub struct JwtRule {
    /// Which requests.
    pub matches: RouteMatch,
    /// What of them; `None` is nothing.
    pub requires: Option<Requirement>,
}

/// `JwtRequirement`; providers by their places.
#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    /// A token of this provider; with other audiences than its own where there are some.
    Provider(usize, Option<Vec<String>>),
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
    /// Tokens of these are used if they are good, and ignored if not.
    AllowFailed(Vec<usize>),
    /// Tokens of these must be good if they are there.
    AllowMissing(Vec<usize>),
}

/// `JwtProvider`.
#[derive(Debug, Clone)]
pub struct JwtProvider {
    /// Its name.
    pub name: Arc<str>,
    /// `iss`; empty takes any.
    pub issuer: String,
    /// `aud`, as [`sanitized`]; empty takes any.
    pub audiences: Vec<String>,
    /// `sub`.
    pub subjects: Option<StringMatcher>,
    /// `exp` must be there.
    pub require_expiration: bool,
    /// Longest time until `exp`.
    pub max_lifetime: Option<Duration>,
    /// Where its keys come from.
    pub keys: JwksSource,
    /// Leave the token in the request.
    pub forward: bool,
    /// Where its tokens are.
    pub locations: Vec<TokenLocation>,
    /// The payload goes upstream in this header.
    pub payload_header: Option<HeaderName>,
    /// Pad the Base64 of it.
    pub pad_payload: bool,
    /// Key of the payload in dynamic metadata.
    pub payload_in_metadata: Option<String>,
    /// These claims become lists of words there.
    pub space_delimited: Vec<String>,
    /// Key of the token's header in dynamic metadata.
    pub header_in_metadata: Option<String>,
    /// Key of what is wrong with a token in dynamic metadata.
    pub failure_in_metadata: Option<String>,
    /// Seconds that clocks may differ.
    pub clock_skew: u32,
    /// Good tokens kept, and the longest of them in bytes.
    pub cache: Option<(usize, usize)>,
    /// Claims that go upstream in headers.
    pub claim_headers: Vec<(HeaderName, Vec<String>)>,
    /// The request is routed anew with those.
    pub clear_route_cache: bool,
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// After this text in a header; an empty one takes the whole header.
    Header(HeaderName, String),
    /// In a query parameter.
    Param(String),
    /// In a cookie.
    Cookie(String),
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq)]
pub enum JwksSource {
    /// Written in the configuration.
    Inline(Arc<str>),
    /// Read when the filter starts.
    File(Arc<str>),
    /// An environment variable.
    Environment(Arc<str>),
    /// Fetched.
    Remote(Arc<RemoteJwks>),
}

/// `RemoteJwks`.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteJwks {
    /// From where.
    pub service: HttpService,
    /// How long they count.
    pub cache: Duration,
    /// Before anybody asks, and the wait after a failure.
    pub ahead: Option<Duration>,
    /// Further tries.
    pub retries: u32,
    /// The wait before the first of them; it doubles.
    pub backoff: Duration,
}

/// `PerRouteConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtOverride {
    /// Nothing is required.
    Off,
    /// The requirement of this name.
    Named(String),
}

impl JwtAuthn {
    pub(super) fn parse(wire: pb::JwtAuthentication, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::JwtAuthentication {
            providers,
            rules,
            filter_state_rules,
            bypass_cors_preflight,
            requirement_map,
            strip_failure_response,
            stat_prefix,
        } = wire;
        let mut sorted: Vec<_> = providers.into_iter().collect();
        sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
        let mut parsed = Vec::with_capacity(sorted.len());
        for (name, provider) in sorted {
            let field = format!("providers[{name}]");
            parsed.push(cx.field(&field, |cx| JwtProvider::parse(name, provider, cx))?);
        }
        let names: HashMap<&str, usize> = parsed
            .iter()
            .enumerate()
            .map(|(index, provider)| (&*provider.name, index))
            .collect();
        let mut named = BTreeMap::new();
        for (name, requirement) in requirement_map {
            let field = format!("requirement_map[{name}]");
            let requirement = cx.field(&field, |cx| Requirement::parse(requirement, &names, cx))?;
            named.insert(name, requirement);
        }
        let rules = cx.each("rules", rules, |rule, cx| {
            JwtRule::parse(rule, &names, &named, cx)
        })?;
        let by_state = match filter_state_rules {
            None => None,
            Some(pb::FilterStateRule { name, requires }) => {
                let mut out = BTreeMap::new();
                for (value, requirement) in requires {
                    let field = format!("filter_state_rules.requires[{value}]");
                    let parsed =
                        cx.field(&field, |cx| Requirement::parse(requirement, &names, cx))?;
                    out.extend(parsed.map(|requirement| (value, requirement)));
                }
                Some((name, out))
            }
        };
        Ok(Self {
            rules,
            by_state,
            bypass_preflight: bypass_cors_preflight,
            named,
            strip_failure: strip_failure_response,
            stat_prefix: stat_prefix.into(),
            providers: parsed,
        })
    }
}

impl JwtRule {
    fn parse(
        wire: pb::RequirementRule,
        names: &HashMap<&str, usize>,
        named: &BTreeMap<String, Option<Requirement>>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::requirement_rule::RequirementType;
        let pb::RequirementRule {
            r#match,
            requirement_type,
        } = wire;
        let matches = cx.required("match", r#match)?;
        Ok(Self {
            matches: cx.field("match", |cx| RouteMatch::parse(matches, cx))?,
            requires: match requirement_type {
                None => None,
                Some(RequirementType::Requires(wire)) => {
                    cx.field("requires", |cx| Requirement::parse(wire, names, cx))?
                }
                Some(RequirementType::RequirementName(name)) => match named.get(&name) {
                    Some(requirement) => requirement.clone(),
                    None => {
                        let reason = format!("there is no `{name}` in requirement_map");
                        return Err(cx.invalid("requirement_name", reason));
                    }
                },
            },
        })
    }
}

impl Requirement {
    /// `None` where nothing is required.
    fn parse(
        wire: pb::JwtRequirement,
        names: &HashMap<&str, usize>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        Self::nested(wire, names, MAX_DEPTH, cx)
    }

    fn nested(
        wire: pb::JwtRequirement,
        names: &HashMap<&str, usize>,
        depth: u32,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        use pb::jwt_requirement::RequiresType;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        let provider = |field: &str, name: &str, cx: &Cx| {
            names.get(name).copied().ok_or_else(|| {
                cx.invalid(
                    field,
                    format!("Required provider ['{name}'] is not configured."),
                )
            })
        };
        let all = || (0..names.len()).collect();
        Ok(match wire.requires_type {
            None => None,
            Some(RequiresType::ProviderName(name)) => {
                Some(Self::Provider(provider("provider_name", &name, cx)?, None))
            }
            Some(RequiresType::ProviderAndAudiences(pb::ProviderWithAudiences {
                provider_name,
                audiences,
            })) => {
                let index = provider("provider_and_audiences.provider_name", &provider_name, cx)?;
                let audiences: Vec<String> = audiences
                    .iter()
                    .map(|audience| sanitized(audience).to_owned())
                    .collect();
                Some(Self::Provider(
                    index,
                    (!audiences.is_empty()).then_some(audiences),
                ))
            }
            Some(RequiresType::RequiresAny(list)) => {
                Some(Self::any(list.requirements, names, depth, cx)?)
            }
            Some(RequiresType::RequiresAll(list)) => {
                let parsed: Vec<Option<Self>> = cx.each(
                    "requires_all.requirements",
                    list.requirements,
                    |wire, cx| Self::nested(wire, names, depth, cx),
                )?;
                Some(Self::All(parsed.into_iter().flatten().collect()))
            }
            Some(RequiresType::AllowMissingOrFailed(_)) => Some(Self::AllowFailed(all())),
            Some(RequiresType::AllowMissing(_)) => Some(Self::AllowMissing(all())),
            Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
                return Err(cx.invalid(
                    "extract_only_without_validation",
                    "not supported by this proxy; tokens are always verified",
                ));
            }
        })
    }

    /// What may be missing is that of the providers beside it; where there are none, of all.
    fn any(
        wire: Vec<pb::JwtRequirement>,
        names: &HashMap<&str, usize>,
        depth: u32,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let parsed: Vec<Option<Self>> =
            cx.each("requires_any.requirements", wire, |wire, cx| {
                Self::nested(wire, names, depth, cx)
            })?;
        let mut regular = Vec::new();
        let (mut missing, mut failed) = (false, false);
        let mut beside = Vec::new();
        for requirement in parsed.into_iter().flatten() {
            match requirement {
                Self::AllowMissing(_) => missing = true,
                Self::AllowFailed(_) => failed = true,
                other => {
                    if let Self::Provider(index, _) = &other {
                        beside.push(*index);
                    }
                    regular.push(other);
                }
            }
        }
        let providers = match beside.is_empty() {
            true => (0..names.len()).collect(),
            false => beside,
        };
        if failed {
            regular.push(Self::AllowFailed(providers));
        } else if missing {
            regular.push(Self::AllowMissing(providers));
        }
        Ok(Self::Any(regular))
    }
}

/// An audience without its scheme and last slash, as Envoy compares them.
pub fn sanitized(audience: &str) -> &str {
    let bare = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

fn header_name(field: &str, name: &str, cx: &Cx) -> Result<HeaderName, Invalid> {
    let lower = name.to_ascii_lowercase();
    lower
        .parse()
        .map_err(|_| cx.invalid(field, format!("`{name}` is not a header name")))
}

fn named(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl JwtProvider {
    fn parse(name: String, wire: pb::JwtProvider, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::JwtProvider {
            issuer,
            audiences,
            subjects,
            require_expiration,
            max_lifetime,
            forward,
            from_headers,
            from_params,
            from_cookies,
            forward_payload_header,
            pad_forward_payload_header,
            payload_in_metadata,
            normalize_payload_in_metadata,
            header_in_metadata,
            failed_status_in_metadata,
            clock_skew_seconds,
            jwt_cache_config,
            claim_to_headers,
            clear_route_cache,
            jwks_source_specifier,
        } = wire;
        let subjects = subjects
            .map(|subjects| cx.field("subjects", |cx| StringMatcher::parse(subjects, cx)))
            .transpose()?;
        let payload_header = match forward_payload_header.as_str() {
            "" => None,
            name => Some(header_name("forward_payload_header", name, cx)?),
        };
        let source = cx.required("jwks_source_specifier", jwks_source_specifier)?;
        Ok(Self {
            name: name.into(),
            issuer,
            audiences: audiences
                .iter()
                .map(|audience| sanitized(audience).to_owned())
                .collect(),
            subjects,
            require_expiration,
            max_lifetime: cx.duration("max_lifetime", max_lifetime)?,
            keys: JwksSource::parse(source, cx)?,
            forward,
            locations: locations(from_headers, from_params, from_cookies, cx)?,
            payload_header,
            pad_payload: pad_forward_payload_header,
            payload_in_metadata: named(payload_in_metadata),
            space_delimited: normalize_payload_in_metadata
                .map_or_else(Vec::new, |normal| normal.space_delimited_claims),
            header_in_metadata: named(header_in_metadata),
            failure_in_metadata: named(failed_status_in_metadata),
            clock_skew: match clock_skew_seconds {
                0 => DEFAULT_SKEW,
                seconds => seconds,
            },
            cache: jwt_cache_config.map(|cache| {
                let or = |value: u32, default: u32| if value == 0 { default } else { value };
                let size = or(cache.jwt_cache_size, DEFAULT_CACHE_SIZE).min(MAX_CACHE_SIZE);
                let longest = or(cache.jwt_max_token_size, DEFAULT_CACHED_TOKEN);
                (size as usize, longest as usize)
            }),
            claim_headers: cx.each("claim_to_headers", claim_to_headers, claim_header)?,
            clear_route_cache,
        })
    }
}

fn claim_header(
    wire: pb::JwtClaimToHeader,
    cx: &mut Cx,
) -> Result<(HeaderName, Vec<String>), Invalid> {
    let pb::JwtClaimToHeader {
        header_name: name,
        claim_name,
        claim_path,
    } = wire;
    let path: Vec<String> = match (claim_name.is_empty(), claim_path.is_empty()) {
        (false, true) => claim_name.split('.').map(str::to_owned).collect(),
        (true, false) => claim_path.into_iter().map(|segment| segment.key).collect(),
        _ => {
            return Err(cx.invalid(
                "claim_name",
                "exactly one of claim_name and claim_path is needed",
            ));
        }
    };
    Ok((header_name("header_name", &name, cx)?, path))
}

fn locations(
    headers: Vec<pb::JwtHeader>,
    params: Vec<String>,
    cookies: Vec<String>,
    cx: &mut Cx,
) -> Result<Vec<TokenLocation>, Invalid> {
    if headers.is_empty() && params.is_empty() && cookies.is_empty() {
        return Ok(vec![
            TokenLocation::Header(http::header::AUTHORIZATION, "Bearer ".into()),
            TokenLocation::Param("access_token".into()),
        ]);
    }
    let mut out: Vec<_> = cx.each("from_headers", headers, |wire, cx| {
        let pb::JwtHeader { name, value_prefix } = wire;
        Ok(TokenLocation::Header(
            header_name("name", &name, cx)?,
            value_prefix,
        ))
    })?;
    out.extend(params.into_iter().map(TokenLocation::Param));
    out.extend(cookies.into_iter().map(TokenLocation::Cookie));
    Ok(out)
}

impl JwksSource {
    fn parse(wire: pb::jwt_provider::JwksSourceSpecifier, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::jwt_provider::JwksSourceSpecifier as Wire;
        match wire {
            Wire::LocalJwks(core::DataSource {
                specifier,
                watched_directory,
            }) => cx.field("local_jwks", |cx| {
                refuse!(cx; watched_directory);
                Ok(match cx.required("specifier", specifier)? {
                    Specifier::InlineString(text) => Self::Inline(text.into()),
                    Specifier::InlineBytes(bytes) => Self::Inline(
                        String::from_utf8(bytes)
                            .map_err(|_| cx.invalid("inline_bytes", "is not UTF-8"))?
                            .into(),
                    ),
                    Specifier::Filename(path) => Self::File(path.into()),
                    Specifier::EnvironmentVariable(name) => Self::Environment(name.into()),
                })
            }),
            Wire::RemoteJwks(remote) => cx.field("remote_jwks", |cx| {
                RemoteJwks::parse(remote, cx).map(|remote| Self::Remote(Arc::new(remote)))
            }),
        }
    }
}

impl RemoteJwks {
    fn parse(wire: pb::RemoteJwks, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::RemoteJwks {
            http_uri,
            cache_duration,
            async_fetch,
            retry_policy,
        } = wire;
        let service = HttpService::parse(
            core::HttpService {
                http_uri,
                ..core::HttpService::default()
            },
            cx,
        )?;
        let ahead = match async_fetch {
            None => None,
            Some(pb::JwksAsyncFetch {
                // Requests wait for the first fetch in any case; the listener does not.
                fast_listener: _,
                failed_refetch_duration,
            }) => {
                let field = "async_fetch.failed_refetch_duration";
                let wait = cx.duration(field, failed_refetch_duration)?;
                Some(wait.unwrap_or(DEFAULT_REFETCH))
            }
        };
        let (retries, backoff) = match retry_policy {
            None => (0, Duration::from_secs(1)),
            Some(policy) => cx.field("retry_policy", |cx| retries(policy, cx))?,
        };
        Ok(Self {
            service,
            cache: cx
                .duration("cache_duration", cache_duration)?
                .unwrap_or(DEFAULT_CACHE),
            ahead,
            retries,
            backoff,
        })
    }
}

/// Further tries, and the wait before the first of them.
pub(super) fn retries(wire: core::RetryPolicy, cx: &mut Cx) -> Result<(u32, Duration), Invalid> {
    let core::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = wire;
    refuse!(cx; retry_priority, retry_host_predicate);
    // Every failure is tried again; that of a host is one.
    let _ = (retry_on, host_selection_retry_max_attempts);
    let base = match retry_back_off {
        None => None,
        Some(backoff) => cx.duration("retry_back_off.base_interval", backoff.base_interval)?,
    };
    let count = num_retries.map_or(1, |count| count.value).min(10);
    Ok((count, base.unwrap_or(Duration::from_secs(1))))
}
