//! AuthorizationPolicy to rules.
//!
//! Invariant: what cannot be understood never opens anything. A constraint that cannot be read
//! takes its ALLOW rule with it (less is allowed), and is left out of a DENY or CUSTOM rule (more is denied or asked about);
//! Istio treats HTTP fields on TCP ports the same way. Either is reported.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::MeshSettings;
use malla_model::policy::{
    AuthorizationPolicy, Condition, ConditionKey, Glob, OneOf, Operation, PolicyAction, Rule,
    Source,
};
use malla_model::telemetry::ProviderKind;
use serde_json::Value;

use super::meta::{ip_block, meta, port, selector, text, texts};
use super::{Context, Lowered, Refused, by_selector_only, decode};
use crate::istio::authorization_policy as raw;
use crate::kind::Kind;

/// The annotation that makes a policy only report.
const DRY_RUN: &str = "istio.io/dry-run";

/// Lowers an AuthorizationPolicy.
///
/// # Errors
/// When the spec is malformed, or the policy is attached by `targetRefs`.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<AuthorizationPolicy>, Refused> {
    let written: raw::AuthorizationPolicySpec = decode(Kind::AuthorizationPolicy, metadata, spec)?;
    by_selector_only(
        Kind::AuthorizationPolicy,
        metadata,
        written.target_ref.as_ref(),
        &written.target_refs,
    )?;
    let mut cx = Context::new(metadata, "");
    let meta = meta(Kind::AuthorizationPolicy.name(), metadata);
    // More is denied, and an authorizer is asked about more.
    let widen = matches!(
        written.action,
        Some(raw::Action::Deny | raw::Action::Custom)
    );
    let rules = written
        .rules
        .iter()
        .enumerate()
        .filter_map(|(at, rule)| {
            let path = format!("spec.rules[{at}]");
            let lowered = self::rule(rule, &path, widen, &mut cx);
            if lowered.is_none() {
                cx.note(path, "cannot be read whole, so nothing is matched by it");
            }
            lowered
        })
        .collect();
    let action = action(&written);
    let dry_run = meta.annotations.get(DRY_RUN).is_some_and(|it| it == "true");
    doubts(&action, dry_run, settings, &mut cx);
    let value = AuthorizationPolicy {
        selector: selector(written.selector.as_ref().map(|s| &s.match_labels)),
        action,
        rules,
        dry_run,
        meta,
    };
    Ok(cx.finish(Kind::AuthorizationPolicy, spec, value))
}

/// Notes what of an action cannot be done.
fn doubts(action: &PolicyAction, dry_run: bool, settings: &MeshSettings, cx: &mut Context<'_>) {
    let tried = matches!(action, PolicyAction::Allow | PolicyAction::Deny);
    if dry_run && !tried {
        cx.note(
            format!("metadata.annotations[{DRY_RUN}]"),
            "only ALLOW and DENY can be tried, so the policy does nothing",
        );
        return;
    }
    let PolicyAction::Custom { provider } = action else {
        return;
    };
    let why = match settings.telemetry.provider(provider) {
        Some(ProviderKind::Authorizer(_)) => return,
        Some(ProviderKind::Other(_)) => "cannot be used; the mesh configuration says why",
        Some(_) => "is no authorizer (envoyExtAuthzHttp or envoyExtAuthzGrpc)",
        None => "is not among extensionProviders of the mesh configuration",
    };
    cx.note(
        "spec.provider.name",
        format!("{provider:?} {why}; until then every request to these workloads is refused"),
    );
}

fn action(written: &raw::AuthorizationPolicySpec) -> PolicyAction {
    match written.action.unwrap_or_default() {
        raw::Action::Allow => PolicyAction::Allow,
        raw::Action::Deny => PolicyAction::Deny,
        raw::Action::Audit => PolicyAction::Audit,
        raw::Action::Custom => PolicyAction::Custom {
            provider: written
                .provider
                .as_ref()
                .and_then(|provider| text(&provider.name))
                .unwrap_or_default(),
        },
    }
}

/// `None`: the rule cannot be read, and dropping it is the safe side.
fn rule(written: &raw::Rule, path: &str, widen: bool, cx: &mut Context<'_>) -> Option<Rule> {
    let mut from = Vec::new();
    for (at, item) in written.from.iter().enumerate() {
        let mut reader = Reader::new(format!("{path}.from[{at}].source"), widen, cx);
        from.push(source(item.source.as_ref(), &mut reader)?);
    }
    let mut to = Vec::new();
    for (at, item) in written.to.iter().enumerate() {
        let mut reader = Reader::new(format!("{path}.to[{at}].operation"), widen, cx);
        to.push(operation(item.operation.as_ref(), &mut reader)?);
    }
    let mut when = Vec::new();
    for (at, item) in written.when.iter().enumerate() {
        let mut reader = Reader::new(format!("{path}.when[{at}]"), widen, cx);
        when.extend(condition(item, &mut reader)?);
    }
    Some(Rule { from, to, when })
}

/// Reads the constraints at one path, on the safe side of a policy's action.
struct Reader<'c, 'a> {
    path: String,
    widen: bool,
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Reader<'c, 'a> {
    fn new(path: String, widen: bool, cx: &'c mut Context<'a>) -> Self {
        Self { path, widen, cx }
    }

    /// Reports a constraint that cannot be read. `Some` is the constraint left out.
    fn unreadable<T: Default>(&mut self, field: &str, why: &'static str) -> Option<T> {
        self.cx.note(format!("{}{field}", self.path), why);
        self.widen.then(T::default)
    }

    /// Values that must match and values that must not.
    fn values<T>(
        &mut self,
        fields: (&str, &[String]),
        not: (&str, &[String]),
        why: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<OneOf<T>> {
        let mut list = |(name, texts): (&str, &[String])| {
            let values: Option<Vec<T>> = texts.iter().map(|text| read(text)).collect();
            match values {
                Some(values) => Some(values),
                None => self.unreadable(&format!(".{name}"), why),
            }
        };
        Some(OneOf {
            any: list(fields)?,
            none: list(not)?,
        })
    }

    fn globs(&mut self, fields: (&str, &[String]), not: (&str, &[String])) -> Option<OneOf<Glob>> {
        self.values(fields, not, "", |text| Some(Glob::parse(text)))
    }
}

const NO_BLOCK: &str = "holds a value that is neither an IP address nor a CIDR block";
const NO_PORT: &str = "holds a value that is not a port (1-65535)";
const NO_ACCOUNT: &str = "holds a value that is neither NAMESPACE/ACCOUNT nor ACCOUNT";
const EMPTY: &str = "is empty, which constrains nothing";

fn source(written: Option<&raw::Source>, reader: &mut Reader<'_, '_>) -> Option<Source> {
    let Some(s) = written.filter(|source| **source != raw::Source::default()) else {
        return reader.unreadable("", EMPTY);
    };
    let namespace = reader.cx.namespace.to_owned();
    let mut source = Source {
        principals: reader.globs(
            ("principals", &s.principals),
            ("notPrincipals", &s.not_principals),
        )?,
        request_principals: reader.globs(
            ("requestPrincipals", &s.request_principals),
            ("notRequestPrincipals", &s.not_request_principals),
        )?,
        namespaces: reader.globs(
            ("namespaces", &s.namespaces),
            ("notNamespaces", &s.not_namespaces),
        )?,
        service_accounts: reader.values(
            ("serviceAccounts", &s.service_accounts),
            ("notServiceAccounts", &s.not_service_accounts),
            NO_ACCOUNT,
            |text| service_account(text, &namespace),
        )?,
        ip_blocks: reader.values(
            ("ipBlocks", &s.ip_blocks),
            ("notIpBlocks", &s.not_ip_blocks),
            NO_BLOCK,
            ip_block,
        )?,
        remote_ip_blocks: reader.values(
            ("remoteIpBlocks", &s.remote_ip_blocks),
            ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
            NO_BLOCK,
            ip_block,
        )?,
    };
    trust_domains(s, &mut source, reader)?;
    Some(source)
}

/// A trust domain is the beginning of a principal, so it is matched as one. Both at once would
/// have to hold together, which one list cannot say.
fn trust_domains(
    written: &raw::Source,
    source: &mut Source,
    reader: &mut Reader<'_, '_>,
) -> Option<()> {
    let why = "cannot be combined with principals, nor begin with *";
    let any: Option<Vec<Glob>> = written
        .trust_domains
        .iter()
        .map(|text| of_trust_domain(text))
        .collect();
    match any {
        Some(any) if any.is_empty() => {}
        Some(any) if source.principals.any.is_empty() => source.principals.any = any,
        _ => reader.unreadable::<()>(".trustDomains", why)?,
    }
    let none: Option<Vec<Glob>> = written
        .not_trust_domains
        .iter()
        .map(|text| of_trust_domain(text))
        .collect();
    match none {
        Some(none) => source.principals.none.extend(none),
        None => reader.unreadable::<()>(".notTrustDomains", why)?,
    }
    Some(())
}

/// The principals of a trust domain.
fn of_trust_domain(text: &str) -> Option<Glob> {
    match Glob::parse(text) {
        Glob::Exact(domain) => Some(Glob::Prefix(format!("{domain}/").into())),
        Glob::Prefix(beginning) if !beginning.is_empty() => Some(Glob::Prefix(beginning)),
        Glob::Present => Some(Glob::Present),
        Glob::Prefix(_) | Glob::Suffix(_) => None,
    }
}

/// `namespace/name`, or a name of the policy's own namespace; no wildcards.
fn service_account(text: &str, own_namespace: &str) -> Option<(Arc<str>, Arc<str>)> {
    let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
    let plain = |part: &str| !part.is_empty() && !part.contains(['*', '/']);
    (plain(namespace) && plain(name)).then(|| (namespace.into(), name.into()))
}

fn operation(written: Option<&raw::Operation>, reader: &mut Reader<'_, '_>) -> Option<Operation> {
    let Some(o) = written.filter(|operation| **operation != raw::Operation::default()) else {
        return reader.unreadable("", EMPTY);
    };
    Some(Operation {
        hosts: reader.globs(("hosts", &o.hosts), ("notHosts", &o.not_hosts))?,
        ports: reader.values(
            ("ports", &o.ports),
            ("notPorts", &o.not_ports),
            NO_PORT,
            port_number,
        )?,
        methods: reader.globs(("methods", &o.methods), ("notMethods", &o.not_methods))?,
        paths: reader.globs(("paths", &o.paths), ("notPaths", &o.not_paths))?,
    })
}

fn port_number(text: &str) -> Option<u16> {
    text.parse::<u32>().ok().and_then(port)
}

/// `Some(None)` is a condition left out.
fn condition(written: &raw::Condition, reader: &mut Reader<'_, '_>) -> Option<Option<Condition>> {
    let Some(key) = condition_key(&written.key) else {
        return reader.unreadable(".key", "is not a condition Malla knows");
    };
    let mut values = OneOf {
        any: texts(&written.values),
        none: texts(&written.not_values),
    };
    if key == ConditionKey::SourceServiceAccount {
        let own = reader.cx.namespace;
        let mut all = values.any.iter_mut().chain(&mut values.none);
        for value in all.by_ref().filter(|value| !value.contains('/')) {
            *value = format!("{own}/{value}").into();
        }
    }
    if values.is_empty() {
        return reader.unreadable("", "has neither values nor notValues");
    }
    let mut all = values.any.iter().chain(&values.none);
    let readable = match key {
        ConditionKey::SourceIp | ConditionKey::RemoteIp | ConditionKey::DestinationIp => {
            all.all(|text| ip_block(text).is_some())
        }
        ConditionKey::DestinationPort => all.all(|text| port_number(text).is_some()),
        ConditionKey::SourceServiceAccount => all.all(|text| service_account(text, "").is_some()),
        ConditionKey::SourceTrustDomain => all.all(|text| of_trust_domain(text).is_some()),
        _ => true,
    };
    if !readable {
        return reader.unreadable(".values", "holds a value that the key cannot have");
    }
    Some(Some(Condition { key, values }))
}

/// Reads a condition's key, such as `request.headers[x-tier]`.
pub(crate) fn condition_key(text: &str) -> Option<ConditionKey> {
    if let Some(rest) = text.strip_prefix("request.headers[") {
        let name = rest.strip_suffix(']')?;
        let plain = !name.is_empty() && !name.contains(['[', ']']);
        return plain.then(|| ConditionKey::RequestHeader(name.to_ascii_lowercase().into()));
    }
    if let Some(path) = text.strip_prefix("request.auth.claims") {
        return claim_path(path).map(ConditionKey::RequestClaim);
    }
    Some(match text {
        "source.ip" => ConditionKey::SourceIp,
        "remote.ip" => ConditionKey::RemoteIp,
        "source.namespace" => ConditionKey::SourceNamespace,
        "source.principal" => ConditionKey::SourcePrincipal,
        "source.serviceAccount" => ConditionKey::SourceServiceAccount,
        "source.trustDomain" => ConditionKey::SourceTrustDomain,
        "request.auth.principal" => ConditionKey::RequestPrincipal,
        "request.auth.audiences" => ConditionKey::RequestAudiences,
        "request.auth.presenter" => ConditionKey::RequestPresenter,
        "destination.ip" => ConditionKey::DestinationIp,
        "destination.port" => ConditionKey::DestinationPort,
        "connection.sni" => ConditionKey::ConnectionSni,
        _ => return None,
    })
}

/// A claim and what of it, `[a][b]`.
pub(crate) fn claim_path(text: &str) -> Option<Vec<Arc<str>>> {
    let parts = text.strip_prefix('[')?.strip_suffix(']')?.split("][");
    let plain = |part: &str| !part.is_empty() && !part.contains(['[', ']']);
    parts.map(|part| plain(part).then(|| part.into())).collect()
}
