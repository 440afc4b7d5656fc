//! Finding the virtual host of an authority and the route of a request without scanning.
//!
//! Invariant: the answer is the one a linear scan in configured order gives; the index only skips routes whose path
//! cannot match. (Property-tested against that scan.)

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::Route;
use super::matcher::PathMatch;
use crate::request::RequestView;

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// Up to this many routes a scan is as fast as any index.
const SCAN_UP_TO: usize = 8;

/// Domains to the index of their virtual host.
#[derive(Debug, Clone, Default)]
pub struct HostTable {
    exact: Map<usize>,
    /// `*suffix` without its star, grouped by length, longest first.
    suffixes: Vec<(usize, Map<usize>)>,
    /// `prefix*` likewise.
    prefixes: Vec<(usize, Map<usize>)>,
    any: Option<usize>,
}

impl HostTable {
    /// Compiles the domains of each virtual host; an error names the virtual host.
    pub fn compile(vhosts: &[Vec<String>]) -> Result<Self, (usize, String)> {
        let mut out = Self::default();
        let (mut suffixes, mut prefixes) = (HashMap::new(), HashMap::new());
        for (vhost, domains) in vhosts.iter().enumerate() {
            if domains.is_empty() {
                return Err((vhost, "at least one is required".into()));
            }
            for domain in domains {
                let lower = domain.to_ascii_lowercase();
                let duplicate = if lower == "*" {
                    out.any.replace(vhost).is_some()
                } else if let Some(suffix) = lower.strip_prefix('*') {
                    insert(suffixes.entry(suffix.len()).or_default(), suffix, vhost)
                } else if let Some(prefix) = lower.strip_suffix('*') {
                    insert(prefixes.entry(prefix.len()).or_default(), prefix, vhost)
                } else {
                    insert(&mut out.exact, &lower, vhost)
                };
                if duplicate {
                    return Err((
                        vhost,
                        format!("`{domain}` is already taken by another virtual host"),
                    ));
                }
            }
        }
        out.suffixes = longest_first(suffixes);
        out.prefixes = longest_first(prefixes);
        Ok(out)
    }

    /// The virtual host for a host, in any case.
    pub fn find(&self, host: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        // A star stands for at least one character.
        let shorter = |length: usize| length < host.len();
        let suffix = |length: usize| host.get(host.len() - length..);
        let prefix = |length: usize| host.get(..length);
        let suffixed = || {
            let mut tables = self.suffixes.iter().filter(|(length, _)| shorter(*length));
            tables.find_map(|(length, map)| map.get(suffix(*length)?).copied())
        };
        let prefixed = || {
            let mut tables = self.prefixes.iter().filter(|(length, _)| shorter(*length));
            tables.find_map(|(length, map)| map.get(prefix(*length)?).copied())
        };
        self.exact
            .get(&*host)
            .copied()
            .or_else(suffixed)
            .or_else(prefixed)
            .or(self.any)
    }
}

fn insert(map: &mut Map<usize>, key: &str, vhost: usize) -> bool {
    match map.entry(key.into()) {
        Entry::Occupied(_) => true,
        Entry::Vacant(slot) => {
            slot.insert(vhost);
            false
        }
    }
}

fn longest_first(by_length: HashMap<usize, Map<usize>>) -> Vec<(usize, Map<usize>)> {
    let mut out: Vec<_> = by_length.into_iter().collect();
    out.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    out
}

/// Where in a virtual host's list a request's route may be.
#[derive(Debug, Clone, Default)]
pub struct RouteIndex {
    /// Exact paths, case counts.
    exact: Map<Vec<u32>>,
    /// Prefixes, case counts, grouped by length.
    prefixes: Vec<(usize, Map<Vec<u32>>)>,
    /// Everything else: regular expressions, any-case paths, CONNECT.
    scan: Vec<u32>,
}

impl RouteIndex {
    /// Indexes the routes; short lists stay unindexed.
    pub fn compile(routes: &[Arc<Route>]) -> Self {
        if routes.len() <= SCAN_UP_TO {
            Self::default()
        } else {
            Self::build(routes)
        }
    }

    fn build(routes: &[Arc<Route>]) -> Self {
        let mut out = Self::default();
        let mut prefixes: HashMap<usize, Map<Vec<u32>>> = HashMap::new();
        for (position, route) in (0_u32..).zip(routes) {
            let matches = &route.matches;
            match &matches.path {
                PathMatch::Exact(path) if matches.case_sensitive => {
                    out.exact
                        .entry(path.as_str().into())
                        .or_default()
                        .push(position);
                }
                PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix)
                    if matches.case_sensitive =>
                {
                    let map = prefixes.entry(prefix.len()).or_default();
                    map.entry(prefix.as_str().into())
                        .or_default()
                        .push(position);
                }
                _ => out.scan.push(position),
            }
        }
        out.prefixes = prefixes.into_iter().collect();
        out.prefixes.sort_by_key(|(length, _)| *length);
        out
    }

    /// The first route that fits, by its index.
    pub fn find(
        &self,
        routes: &[Arc<Route>],
        request: &RequestView<'_>,
        random: u64,
    ) -> Option<usize> {
        if self.exact.is_empty() && self.prefixes.is_empty() && self.scan.is_empty() {
            return routes
                .iter()
                .position(|route| route.matches.is_match(request, random));
        }
        let path = request.path_only();
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        lists.push(&self.scan);
        if let Some(positions) = self.exact.get(path) {
            lists.push(positions);
        }
        for (length, map) in self
            .prefixes
            .iter()
            .take_while(|(length, _)| *length <= path.len())
        {
            if let Some(positions) = path.get(..*length).and_then(|prefix| map.get(prefix)) {
                lists.push(positions);
            }
        }
        // Merges the lists, each ascending, so that candidates come in configured order.
        loop {
            let next = lists
                .iter_mut()
                .filter(|list| !list.is_empty())
                .min_by_key(|list| list.first().copied())?;
            let (position, rest) = next.split_first()?;
            *next = rest;
            let route = routes.get(*position as usize)?;
            if route.matches.is_match(request, random) {
                return Some(*position as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

    use super::{HostTable, RouteIndex};
    use crate::pb::route as pb;
    use crate::request::RequestView;
    use crate::route::{Inherited, Route};
    use crate::{checked::Cx, route::matcher::PathMatch};
    use std::sync::Arc;

    fn route(
        name: usize,
        path: pb::route_match::PathSpecifier,
        insensitive: bool,
        header: Option<bool>,
    ) -> Arc<Route> {
        let matches = pb::RouteMatch {
            path_specifier: Some(path),
            case_sensitive: insensitive.then_some(crate::pb::google::BoolValue { value: false }),
            headers: header
                .map(|present| pb::HeaderMatcher {
                    name: "x-a".into(),
                    header_match_specifier: Some(
                        pb::header_matcher::HeaderMatchSpecifier::PresentMatch(present),
                    ),
                    ..Default::default()
                })
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let wire = pb::Route {
            name: name.to_string(),
            r#match: Some(matches),
            action: Some(pb::route::Action::DirectResponse(
                pb::DirectResponseAction {
                    status: 200,
                    ..Default::default()
                },
            )),
            ..Default::default()
        };
        Arc::new(
            Cx::check(|cx| Route::parse(wire, &Inherited::default(), cx))
                .unwrap()
                .value,
        )
    }

    fn paths() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof!["a", "b", "A", "ab"], 0..4)
            .prop_map(|parts| format!("/{}", parts.join("/")))
    }

    fn specifiers() -> impl Strategy<Value = pb::route_match::PathSpecifier> {
        use pb::route_match::{ConnectMatcher, PathSpecifier};
        prop_oneof![
            paths().prop_map(PathSpecifier::Prefix),
            paths().prop_map(PathSpecifier::Path),
            paths()
                .prop_filter("bare", |path| path.len() > 1)
                .prop_map(PathSpecifier::PathSeparatedPrefix),
            paths().prop_map(
                |regex| PathSpecifier::SafeRegex(crate::pb::matcher::RegexMatcher {
                    regex: format!("{regex}.*"),
                    ..Default::default()
                })
            ),
            proptest::strategy::Just(PathSpecifier::ConnectMatcher(ConnectMatcher {})),
        ]
    }

    proptest! {
        #[test]
        fn indexed_routes_agree_with_a_linear_scan(
            table in prop::collection::vec((specifiers(), any::<bool>(), any::<Option<bool>>()), 0..40),
            path in prop_oneof![paths(), paths().prop_map(|path| path + "?q=/a"), proptest::strategy::Just(String::new())],
            connect in any::<bool>(),
            header in any::<bool>(),
        ) {
            let routes: Vec<_> = table
                .into_iter()
                .enumerate()
                .map(|(name, (path, insensitive, header))| route(name, path, insensitive, header))
                .collect();
            let mut headers = HeaderMap::new();
            if header {
                headers.insert("x-a", "1".parse().unwrap());
            }
            let method = if connect { Method::CONNECT } else { Method::GET };
            let request = RequestView { method: &method, path: &path, scheme: "http", headers: &headers, state: None };
            let want = routes.iter().position(|route| route.matches.is_match(&request, 0));
            let have = RouteIndex::build(&routes).find(&routes, &request, 0);
            prop_assert_eq!(have, want);
            if let Some(route) = have.map(|index| &routes[index]) {
                // A CONNECT without a path fits nothing else.
                assert!(!path.is_empty() || route.matches.path == PathMatch::Connect);
            }
        }

        #[test]
        fn compiled_hosts_agree_with_a_linear_scan(
            domains in prop::collection::btree_set("(\\*|)[ab.]{1,4}|[ab.]{1,4}\\*|\\*", 1..12),
            host in "[abAB.]{0,6}",
        ) {
            let vhosts: Vec<Vec<String>> = domains.iter().map(|domain| vec![domain.clone()]).collect();
            let table = HostTable::compile(&vhosts).unwrap();
            let lower = host.to_ascii_lowercase();
            let best = |kind: &dyn Fn(&str) -> Option<usize>| {
                vhosts.iter().enumerate().filter_map(|(index, names)| Some((kind(&names[0])?, index))).max().map(|(_, index)| index)
            };
            let want = best(&|domain| (domain == lower).then_some(0))
                .or_else(|| best(&|domain| {
                    let suffix = domain.strip_prefix('*')?;
                    (!suffix.is_empty() && lower.len() > suffix.len() && lower.ends_with(suffix)).then_some(suffix.len())
                }))
                .or_else(|| best(&|domain| {
                    let prefix = domain.strip_suffix('*')?;
                    (!prefix.is_empty() && lower.len() > prefix.len() && lower.starts_with(prefix)).then_some(prefix.len())
                }))
                .or_else(|| best(&|domain| (domain == "*").then_some(0)));
            prop_assert_eq!(table.find(&host), want);
        }
    }

    #[test]
    fn a_domain_can_be_taken_once() {
        let error = HostTable::compile(&[vec!["a.b".into()], vec!["A.b".into()]]).unwrap_err();
        assert_eq!(
            error,
            (1, "`A.b` is already taken by another virtual host".into())
        );
    }
}
