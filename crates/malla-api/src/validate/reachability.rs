//! Routes of a VirtualService that no request can reach (Istio's IST0130 and IST0131).

use std::collections::BTreeMap;

use crate::analyze::Code;
use crate::istio::http_match::HttpMatchRequest;
use crate::istio::virtual_service::VirtualServiceSpec;

/// A rule or match that never acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// The route or match, such as `spec.http[1]`.
    pub path: String,
    /// The rule as messages name it: `"name"` or `#1`.
    pub rule: String,
    pub what: What,
}

/// What of a rule never acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// All of it.
    Rule { reason: &'static str },
    /// One of its matches, which an earlier rule takes.
    Match { name: String, earlier: String },
}

impl Unreachable {
    /// The analyzer's code for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.what {
            What::Rule { .. } => Code::VirtualServiceUnreachableRule,
            What::Match { .. } => Code::VirtualServiceIneffectiveMatch,
        }
    }

    /// Istio's sentence about it.
    #[must_use]
    pub fn text(&self) -> String {
        let rule = &self.rule;
        match &self.what {
            What::Rule { reason } => format!("VirtualService rule {rule} not used ({reason})."),
            What::Match { name, earlier } => format!(
                "VirtualService rule {rule} match {name} is not used (duplicate/overlapping match in rule {earlier})."
            ),
        }
    }
}

/// One route of any protocol, reduced to what decides reachability.
struct Rule {
    path: String,
    name: String,
    /// (name, what it matches)
    matches: Vec<(String, String)>,
    /// What each match takes in, where that can be compared.
    prefixes: Vec<Option<Prefix>>,
}

/// Finds what never acts. Sidecars try routes in order; gateways try those without a match last.
#[must_use]
pub fn find(spec: &VirtualServiceSpec, in_mesh: bool) -> Vec<Unreachable> {
    let http = spec.http.iter().enumerate().map(|(at, route)| Rule {
        path: format!("spec.http[{at}]"),
        name: named(route.name.as_deref(), at),
        matches: keys(&route.matches, |m| (m.name.as_deref(), nameless(m))),
        prefixes: route.matches.iter().map(Prefix::of).collect(),
    });
    let tls = spec.tls.iter().enumerate().map(|(at, route)| Rule {
        path: format!("spec.tls[{at}]"),
        name: named(None, at),
        matches: keys(&route.matches, |m| (None, format!("{m:?}"))),
        prefixes: Vec::new(),
    });
    let tcp = spec.tcp.iter().enumerate().map(|(at, route)| Rule {
        path: format!("spec.tcp[{at}]"),
        name: named(None, at),
        matches: keys(&route.matches, |m| (None, format!("{m:?}"))),
        prefixes: Vec::new(),
    });
    let mut found = Vec::new();
    for rules in [http.collect::<Vec<_>>(), tls.collect(), tcp.collect()] {
        in_order(&rules, in_mesh, &mut found);
    }
    found
}

fn named(name: Option<&str>, at: usize) -> String {
    match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("{name:?}"),
        None => format!("#{at}"),
    }
}

fn keys<M>(matches: &[M], key: impl Fn(&M) -> (Option<&str>, String)) -> Vec<(String, String)> {
    matches
        .iter()
        .enumerate()
        .map(|(at, item)| {
            let (name, key) = key(item);
            (named(name, at), key)
        })
        .collect()
}

fn nameless(item: &HttpMatchRequest) -> String {
    let nameless = HttpMatchRequest {
        name: None,
        ..item.clone()
    };
    format!("{nameless:?}")
}

fn in_order(rules: &[Rule], in_mesh: bool, found: &mut Vec<Unreachable>) {
    let mut seen: BTreeMap<&str, &Rule> = BTreeMap::new();
    let mut prefixes: Vec<(&Prefix, &str, &Rule)> = Vec::new();
    let mut catch_all = false;
    for rule in rules {
        let unused = |reason| Unreachable {
            path: rule.path.clone(),
            rule: rule.name.clone(),
            what: What::Rule { reason },
        };
        if rule.matches.is_empty() {
            if catch_all {
                found.push(unused("only the last rule can have no matches"));
            }
            catch_all = true;
            continue;
        }
        if catch_all && in_mesh {
            found.push(unused(
                "a rule above has no matches, so it takes every request",
            ));
            continue;
        }
        let mut duplicates = 0;
        for (at, (name, key)) in rule.matches.iter().enumerate() {
            let ineffective = |earlier: String| Unreachable {
                path: format!("{}.match[{at}]", rule.path),
                rule: rule.name.clone(),
                what: What::Match {
                    name: name.clone(),
                    earlier,
                },
            };
            if let Some(earlier) = seen.get(key.as_str()) {
                duplicates += 1;
                found.push(ineffective(earlier.name.clone()));
                continue;
            }
            seen.insert(key, rule);
            let Some(prefix) = rule.prefixes.get(at).and_then(Option::as_ref) else {
                continue;
            };
            let covering = prefixes.iter().find(|(earlier, ..)| earlier.covers(prefix));
            if let Some((earlier, match_name, earlier_rule)) = covering {
                let place = format!(
                    "{match_name} of prefix {} on {}",
                    earlier.prefix, earlier_rule.name
                );
                found.push(ineffective(place));
            }
            prefixes.push((prefix, name, rule));
        }
        if duplicates == rule.matches.len() {
            found.push(unused("all matches used by prior rules"));
        }
    }
}

/// A match by path prefix, and all else it asks for.
#[derive(Debug, PartialEq, Eq)]
struct Prefix {
    prefix: String,
    rest: String,
}

impl Prefix {
    fn of(item: &HttpMatchRequest) -> Option<Self> {
        let prefix = item
            .uri
            .as_ref()?
            .prefix
            .clone()
            .filter(|prefix| !prefix.is_empty())?;
        let rest = HttpMatchRequest {
            name: None,
            uri: None,
            ..item.clone()
        };
        Some(Self {
            prefix,
            rest: format!("{rest:?}"),
        })
    }

    /// Whether every request the other takes is one of these.
    fn covers(&self, other: &Self) -> bool {
        self.prefix != other.prefix
            && other.prefix.starts_with(&self.prefix)
            && self.rest == other.rest
    }
}
