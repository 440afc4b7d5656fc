//! What requests count against: `envoy.config.route.v3.RateLimit` of routes and virtual hosts, and the services asked.
//!
//! A [`RateLimits`] is a list of entries; each entry makes one descriptor of a request, or none where one of its
//! [`action`]s finds nothing to say.

pub mod action;

use crate::checked::{Cx, Invalid, refuse};
use crate::format::Format;
use crate::grpc_service::GrpcService;
use crate::metadata_path::MetadataPath;
use crate::pb::{extensions, google, route as pb};
use action::Action;

/// The entries of a route, a virtual host or a filter, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RateLimits(pub Vec<RateLimit>);

/// `envoy.config.route.v3.RateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// Only filters of this stage read it; 0 to 10.
    pub stage: u32,
    /// A runtime key can switch it off.
    pub has_disable_key: bool,
    /// What the descriptor is made of; never empty.
    pub actions: Vec<Action>,
    /// A limit sent along, which the service may take instead of its own.
    pub limit: Option<LimitOverride>,
    /// What the request counts for; `None` is one.
    pub hits: Option<Hits>,
    /// Says for itself whether `x-ratelimit-*` headers are written.
    pub headers: Option<bool>,
}

/// `RateLimit.Override`.
#[derive(Debug, Clone, PartialEq)]
pub enum LimitOverride {
    /// A struct with `requests_per_unit` and `unit` in the request's dynamic metadata.
    Metadata(MetadataPath),
    /// So many requests per unit (`RateLimitUnit`).
    Fixed {
        /// How many.
        requests: u32,
        /// `envoy.type.v3.RateLimitUnit`.
        unit: i32,
    },
}

/// `RateLimit.HitsAddend`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hits {
    /// How many.
    pub count: HitCount,
    /// They are given back.
    pub negative: bool,
}

/// A number of hits.
#[derive(Debug, Clone, PartialEq)]
pub enum HitCount {
    /// Always so many.
    Fixed(u64),
    /// What this comes to, if that is a number.
    Format(Format),
}

/// One key and value of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DescriptorEntry {
    /// Key; never empty.
    pub key: String,
    /// Value.
    pub value: String,
}

/// Who is asked; its timeout is the filter's, and zero is none.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitService {
    /// The service.
    pub service: GrpcService,
}

/// `VhRateLimitsOptions` and its newer forms: whether the limits of a virtual host count beside a route's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VhostLimits {
    /// Only where the route has none.
    Override,
    /// Too.
    Include,
    /// Never.
    Ignore,
}

/// Envoy's `MAX_STAGE_NUMBER`.
const MAX_STAGE: u32 = 10;
/// Of hits that a request may count for.
const MAX_HITS: u64 = 1_000_000_000;

/// `stage`, from 0 to 10.
pub(crate) fn stage(value: u32, cx: &Cx) -> Result<u32, Invalid> {
    if value > MAX_STAGE {
        return Err(cx.invalid("stage", format!("{value} is not from 0 to {MAX_STAGE}")));
    }
    Ok(value)
}

impl RateLimits {
    pub(crate) fn parse(wire: Vec<pb::RateLimit>, cx: &mut Cx) -> Result<Self, Invalid> {
        cx.each("rate_limits", wire, RateLimit::parse).map(Self)
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl RateLimit {
    fn parse(wire: pb::RateLimit, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::rate_limit::XRateLimitOption;
        let pb::RateLimit {
            stage: at,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = wire;
        refuse!(cx; apply_on_stream_done);
        if actions.is_empty() {
            return Err(cx.invalid("actions", "at least one is required"));
        }
        Ok(Self {
            stage: stage(at.map_or(0, |stage| stage.value), cx)?,
            has_disable_key: !disable_key.is_empty(),
            actions: cx.each("actions", actions, Action::parse)?,
            limit: match limit {
                None => None,
                Some(limit) => Some(cx.field("limit", |cx| LimitOverride::parse(limit, cx))?),
            },
            hits: match hits_addend {
                None => None,
                Some(hits) => Some(cx.field("hits_addend", |cx| Hits::parse(hits, cx))?),
            },
            headers: match cx.enumeration("x_ratelimit_option", x_ratelimit_option)? {
                XRateLimitOption::Unspecified => None,
                XRateLimitOption::Off => Some(false),
                XRateLimitOption::DraftVersion03 => Some(true),
            },
        })
    }
}

impl LimitOverride {
    fn parse(wire: pb::rate_limit::Override, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::rate_limit::r#override::{DynamicMetadata, OverrideSpecifier, RateLimitOverride};
        Ok(
            match cx.required("override_specifier", wire.override_specifier)? {
                OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key }) => {
                    let key = cx.required("dynamic_metadata.metadata_key", metadata_key)?;
                    Self::Metadata(cx.field("dynamic_metadata.metadata_key", |cx| {
                        MetadataPath::parse(key, cx)
                    })?)
                }
                OverrideSpecifier::RateLimit(RateLimitOverride {
                    requests_per_unit,
                    unit,
                }) => Self::Fixed {
                    requests: requests_per_unit,
                    unit,
                },
            },
        )
    }
}

impl Hits {
    fn parse(wire: pb::rate_limit::HitsAddend, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::rate_limit::HitsAddend {
            number,
            format,
            is_negative_hits,
        } = wire;
        let count = match (number, format.is_empty()) {
            (Some(google::UInt64Value { value }), true) if value <= MAX_HITS => {
                HitCount::Fixed(value)
            }
            (Some(_), true) => {
                return Err(cx.invalid("number", format!("must be at most {MAX_HITS}")));
            }
            (Some(_), false) => {
                return Err(cx.invalid("format", "must be empty where number is set"));
            }
            (None, _) => HitCount::Format(
                Format::compile(&format).map_err(|reason| cx.invalid("format", reason))?,
            ),
        };
        Ok(Self {
            count,
            negative: is_negative_hits,
        })
    }
}

impl DescriptorEntry {
    pub(crate) fn parse(
        wire: extensions::common::ratelimit::v3::rate_limit_descriptor::Entry,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let extensions::common::ratelimit::v3::rate_limit_descriptor::Entry { key, value } = wire;
        if key.is_empty() {
            return Err(cx.invalid("key", "is required"));
        }
        Ok(Self { key, value })
    }
}
