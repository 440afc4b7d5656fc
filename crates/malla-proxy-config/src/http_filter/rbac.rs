//! Access control of requests.

use std::sync::Arc;

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::pb::extensions::filters::http as ext;
use crate::rbac::Rbac;

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

impl HttpRbac {
    pub(super) fn parse(wire: ext::rbac::v3::Rbac, cx: &mut Cx) -> Result<Self, Invalid> {
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
