//! Which statistics there are (`stats_config.stats_matcher`), by their full names.

use crate::checked::{Cx, Invalid};
use crate::matcher::StringMatcher;
use crate::pb::{matcher, metrics as pb};

/// `envoy.config.metrics.v3.StatsMatcher`.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum StatsMatcher {
    /// All of them.
    #[default]
    All,
    /// None.
    Nothing,
    /// All but those that one of these takes.
    Without(Vec<StringMatcher>),
    /// Only those that one of these takes.
    Only(Vec<StringMatcher>),
}

impl StatsMatcher {
    pub(crate) fn parse(wire: pb::StatsMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::stats_matcher::StatsMatcher as Wire;
        let list = |field: &str, list: matcher::ListStringMatcher, cx: &mut Cx| {
            cx.field(field, |cx| {
                cx.each("patterns", list.patterns, StringMatcher::parse)
            })
        };
        Ok(match cx.required("stats_matcher", wire.stats_matcher)? {
            Wire::RejectAll(true) => Self::Nothing,
            Wire::RejectAll(false) => Self::All,
            Wire::ExclusionList(wire) => Self::Without(list("exclusion_list", wire, cx)?),
            Wire::InclusionList(wire) => Self::Only(list("inclusion_list", wire, cx)?),
        })
    }

    /// Whether there is a statistic of this name.
    pub fn has(&self, name: &str) -> bool {
        let any = |matchers: &[StringMatcher]| matchers.iter().any(|one| one.is_match(name));
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Without(matchers) => !any(matchers),
            Self::Only(matchers) => any(matchers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StatsMatcher;
    use crate::checked::Cx;

    fn parsed(yaml: &str) -> Result<StatsMatcher, String> {
        let wire = malla_xds_proto::json::from_yaml(yaml).unwrap();
        let checked = Cx::check(|cx| StatsMatcher::parse(wire, cx));
        checked
            .map(|checked| checked.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_in_or_out() {
        let check = |yaml: &str, name: &str, want: bool| {
            assert_eq!(parsed(yaml).unwrap().has(name), want, "{yaml} {name}");
        };
        let only = "inclusion_list: { patterns: [ { prefix: cluster.a. }, { safe_regex: { regex: '.*rq_total' } } ] }";
        check(only, "cluster.a.upstream_cx_total", true);
        check(only, "http.in.downstream_rq_total", true);
        check(only, "http.in.downstream_cx_total", false);
        check(
            "exclusion_list: { patterns: [ { suffix: _total } ] }",
            "a.x_total",
            false,
        );
        check(
            "exclusion_list: { patterns: [ { suffix: _total } ] }",
            "a.x",
            true,
        );
        check("reject_all: true", "server.live", false);
        check("reject_all: false", "server.live", true);
        let error = parsed("inclusion_list: { patterns: [ { safe_regex: { regex: '(' } } ] }");
        assert!(error.unwrap_err().starts_with("inclusion_list.patterns[0]"));
    }
}
