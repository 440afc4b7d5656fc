//! Envoy's matchers of dynamic metadata, of which only tokens' claims are known here.

use malla_xds_proto::matcher::metadata_matcher::path_segment::Segment;
use malla_xds_proto::matcher::value_matcher::MatchPattern;
use malla_xds_proto::matcher::{MetadataMatcher, ValueMatcher, list_matcher};
use serde_json::Value;

use super::text;

/// Whether the claims of a request's token fit; those of a request without one fit nothing.
pub(crate) fn fit(matcher: &MetadataMatcher, claims: Option<&Value>) -> bool {
    // The first segment is what the filter calls the claims.
    let mut path = matcher.path.iter().skip(1);
    let found = claims.and_then(|claims| {
        path.try_fold(claims, |at, segment| match &segment.segment {
            Some(Segment::Key(key)) => at.get(key),
            None => None,
        })
    });
    let wanted = matcher.value.as_ref();
    let fits = found.zip(wanted).is_some_and(|(value, of)| is(of, value));
    fits != matcher.invert
}

fn is(matcher: &ValueMatcher, value: &Value) -> bool {
    match (&matcher.match_pattern, value) {
        (Some(MatchPattern::OrMatch(or)), value) => {
            or.value_matchers.iter().any(|of| is(of, value))
        }
        (Some(MatchPattern::StringMatch(of)), Value::String(value)) => text::string(of, value),
        (Some(MatchPattern::ListMatch(list)), Value::Array(items)) => match &list.match_pattern {
            Some(list_matcher::MatchPattern::OneOf(of)) => items.iter().any(|item| is(of, item)),
            None => false,
        },
        _ => false,
    }
}
