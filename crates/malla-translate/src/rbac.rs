//! AuthorizationPolicies as Envoy's RBAC filters: one for each action, AUDIT, then DENY, then ALLOW. CUSTOM has its
//! own (`ext_authz`), before tokens are looked at.

mod permission;
mod principal;
mod text;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use malla_model::policy::{AuthorizationPolicy, PolicyAction, Rule};
use malla_xds_proto::hcm::HttpFilter;
use malla_xds_proto::http_filters::rbac::v3::Rbac as HttpRbac;
use malla_xds_proto::listener::Filter;
use malla_xds_proto::network_filters::rbac::v3::Rbac as NetworkRbac;
use malla_xds_proto::rbac::rbac::Action;
use malla_xds_proto::rbac::{Policy, Rbac};

use crate::listener::{http_filter, network_filter};
use crate::view::View;

pub(crate) use text::glob;

/// Name of the filter of requests; also where it makes its notes.
pub(crate) const HTTP_FILTER: &str = "envoy.filters.http.rbac";
/// Name of the filter of connections; also where it makes its notes.
pub(crate) const NETWORK_FILTER: &str = "envoy.filters.network.rbac";
/// Prefix of the network filter's statistics.
const NETWORK_STATS: &str = "tcp.";
const DENY_DRY_RUN: &str = "istio_dry_run_deny_";
const ALLOW_DRY_RUN: &str = "istio_dry_run_allow_";
/// How names of policies begin whose requests an authorizer is asked about.
pub(crate) const ASKS: &str = "istio-ext-authz";
const BAD_CUSTOM: &str = "default-deny-all-due-to-bad-CUSTOM-action";

/// What is being guarded; HTTP has fields that bytes have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Http,
    Tcp,
}

/// One filter's rules, enforced and only tried.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    rules: Option<Rbac>,
    shadow: Option<Rbac>,
    /// Before what is noted of those that are only tried.
    shadow_prefix: String,
}

pub(crate) fn http_filters(view: &View<'_>) -> Vec<HttpFilter> {
    let filters = build(view, Layer::Http).into_iter();
    filters.map(http_filter_of).collect()
}

pub(crate) fn network_filters(view: &View<'_>) -> Vec<Filter> {
    let filters = build(view, Layer::Tcp).into_iter();
    filters.map(network_filter_of).collect()
}

pub(crate) fn http_filter_of(filters: Filters) -> HttpFilter {
    let config = HttpRbac {
        shadow_rules_stat_prefix: filters.prefix(),
        rules: filters.rules,
        shadow_rules: filters.shadow,
        ..HttpRbac::default()
    };
    http_filter(HTTP_FILTER, &config)
}

pub(crate) fn network_filter_of(filters: Filters) -> Filter {
    let config = NetworkRbac {
        stat_prefix: NETWORK_STATS.into(),
        shadow_rules_stat_prefix: filters.prefix(),
        rules: filters.rules,
        shadow_rules: filters.shadow,
        ..NetworkRbac::default()
    };
    network_filter(NETWORK_FILTER, &config)
}

impl Filters {
    fn prefix(&self) -> String {
        match self.shadow {
            Some(_) => self.shadow_prefix.clone(),
            None => String::new(),
        }
    }
}

/// Rules that only note which policy matches, for the authorizer that is asked then.
pub(crate) fn shadow(
    view: &View<'_>,
    policies: &[&Arc<AuthorizationPolicy>],
    prefix: String,
    layer: Layer,
) -> Filters {
    let mut rules = rules(view, policies, Action::Deny, layer);
    let named = std::mem::take(&mut rules.policies).into_iter();
    rules.policies = named
        .map(|(name, policy)| (format!("{ASKS}-{name}"), policy))
        .collect();
    Filters {
        rules: None,
        shadow: Some(rules),
        shadow_prefix: prefix,
    }
}

fn build(view: &View<'_>, layer: Layer) -> Vec<Filters> {
    let policies = in_force(view);
    let of = |wanted: &PolicyAction| -> Vec<&Arc<AuthorizationPolicy>> {
        policies
            .iter()
            .copied()
            .filter(|policy| policy.action == *wanted)
            .collect()
    };
    let mut filters = Vec::new();
    for (action, wire, shadow_prefix) in [
        (PolicyAction::Audit, Action::Log, ""),
        (PolicyAction::Deny, Action::Deny, DENY_DRY_RUN),
        (PolicyAction::Allow, Action::Allow, ALLOW_DRY_RUN),
    ] {
        let (mut tried, enforced): (Vec<_>, Vec<_>) =
            of(&action).into_iter().partition(|p| p.dry_run);
        if action == PolicyAction::Audit {
            tried.clear(); // It denies nothing, so there is nothing to try.
        }
        if tried.is_empty() && enforced.is_empty() {
            continue;
        }
        let rules = |policies: Vec<&Arc<AuthorizationPolicy>>| {
            (!policies.is_empty()).then(|| rules(view, &policies, wire, layer))
        };
        filters.push(Filters {
            rules: rules(enforced),
            shadow: rules(tried),
            shadow_prefix: shadow_prefix.to_owned(),
        });
    }
    filters
}

/// Policies of the root namespace and the workload's that select it.
pub(crate) fn in_force<'a>(view: &View<'a>) -> Vec<&'a Arc<AuthorizationPolicy>> {
    let policies = view.mesh.authorization_policies.iter();
    policies
        .filter(|policy| view.is_for_node(&policy.meta, policy.selector.as_ref()))
        .collect()
}

fn rules(
    view: &View<'_>,
    policies: &[&Arc<AuthorizationPolicy>],
    action: Action,
    layer: Layer,
) -> Rbac {
    let mut out = HashMap::new();
    for policy in policies {
        for (at, rule) in policy.rules.iter().enumerate() {
            if let Some(wire) = policy_of(view, rule, action, layer) {
                let name = format!(
                    "ns[{}]-policy[{}]-rule[{at}]",
                    policy.meta.namespace(),
                    policy.meta.name()
                );
                out.insert(name, wire);
            }
        }
    }
    Rbac {
        action: action.into(),
        policies: out,
        ..Rbac::default()
    }
}

/// `None` for a rule that asks of bytes what only HTTP has. Where such a rule denies, those fields
/// are left out instead, so that it denies more rather than less.
fn policy_of(view: &View<'_>, rule: &Rule, action: Action, layer: Layer) -> Option<Policy> {
    if layer == Layer::Tcp && action != Action::Deny && needs_http(rule) {
        return None;
    }
    Some(Policy {
        permissions: permission::of_rule(rule, layer),
        principals: principal::of_rule(view, rule, layer),
        ..Policy::default()
    })
}

fn needs_http(rule: &Rule) -> bool {
    rule.to
        .iter()
        .any(malla_model::policy::Operation::needs_http)
        || rule
            .from
            .iter()
            .any(|source| !source.request_principals.is_empty())
        || rule
            .when
            .iter()
            .any(|condition| principal::key_needs_http(&condition.key))
}

/// For authorizers that cannot be asked.
pub(crate) fn deny_everything() -> Filters {
    let everything = Policy {
        permissions: vec![permission::any()],
        principals: vec![principal::any()],
        ..Policy::default()
    };
    Filters {
        rules: Some(Rbac {
            action: Action::Deny.into(),
            policies: HashMap::from([(BAD_CUSTOM.to_owned(), everything)]),
            ..Rbac::default()
        }),
        ..Filters::default()
    }
}
