//! Matchers on metadata trees and on filter state.

use ipnet::IpNet;

use crate::address::cidr;
use crate::checked::{Cx, Invalid};
use crate::matcher::StringMatcher;
use crate::metadata::{Metadata, Value};
use crate::pb::matcher as pb;
use crate::stream_state::StreamState;

/// Matchers may nest, but not for ever.
const MAX_DEPTH: u32 = 16;

/// `envoy.type.matcher.v3.MetadataMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatcher {
    namespace: String,
    path: Vec<String>,
    value: ValueMatcher,
    invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatcher {
    /// JSON null.
    Null,
    /// `start <= number < end`.
    Range(f64, f64),
    /// This very number.
    Number(f64),
    /// A text.
    Text(StringMatcher),
    /// This truth.
    Bool(bool),
    /// There is a value; `false` never matches.
    Present(bool),
    /// Any item of a list.
    Item(Box<ValueMatcher>),
    /// Any of them.
    Or(Vec<ValueMatcher>),
}

/// `envoy.type.matcher.v3.FilterStateMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterStateMatcher {
    key: String,
    value: ObjectMatcher,
}

#[derive(Debug, Clone, PartialEq)]
enum ObjectMatcher {
    Text(StringMatcher),
    Address(Vec<IpNet>, bool),
}

/// Either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum StateMatcher {
    /// On dynamic metadata.
    Metadata(MetadataMatcher),
    /// On filter state.
    Object(FilterStateMatcher),
}

impl StateMatcher {
    pub(crate) fn parse_all(
        metadata: Vec<pb::MetadataMatcher>,
        objects: Vec<pb::FilterStateMatcher>,
        cx: &mut Cx,
    ) -> Result<Vec<Self>, Invalid> {
        let mut out: Vec<Self> = cx.each("dynamic_metadata", metadata, |wire, cx| {
            MetadataMatcher::parse(wire, cx).map(Self::Metadata)
        })?;
        let objects: Vec<Self> = cx.each("filter_state", objects, |wire, cx| {
            FilterStateMatcher::parse(wire, cx).map(Self::Object)
        })?;
        out.extend(objects);
        Ok(out)
    }

    /// True if what was noted fits.
    pub fn is_match(&self, state: Option<&StreamState>) -> bool {
        match self {
            Self::Metadata(matcher) => matcher.is_match(state.map(|state| &state.metadata)),
            Self::Object(matcher) => matcher.is_match(state),
        }
    }
}

impl MetadataMatcher {
    pub(crate) fn parse(wire: pb::MetadataMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::MetadataMatcher {
            filter,
            path,
            value,
            invert,
        } = wire;
        if filter.is_empty() {
            return Err(cx.invalid("filter", "is required"));
        }
        if path.is_empty() {
            return Err(cx.invalid("path", "at least one is required"));
        }
        let path = cx.each("path", path, |segment, cx| {
            use pb::metadata_matcher::path_segment::Segment;
            let Segment::Key(key) = cx.required("key", segment.segment)?;
            Ok(key)
        })?;
        let value = cx.required("value", value)?;
        Ok(Self {
            namespace: filter,
            path,
            value: cx.field("value", |cx| ValueMatcher::parse(value, MAX_DEPTH, cx))?,
            invert,
        })
    }

    /// True if the tree fits; a value that is not there fits nothing.
    pub fn is_match(&self, metadata: Option<&Metadata>) -> bool {
        let value = metadata.and_then(|metadata| metadata.at(&self.namespace, &self.path));
        value.is_some_and(|value| self.value.is_match(value)) != self.invert
    }
}

impl ValueMatcher {
    pub(crate) fn parse(wire: pb::ValueMatcher, depth: u32, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::double_matcher::MatchPattern as Double;
        use pb::list_matcher::MatchPattern as List;
        use pb::value_matcher::MatchPattern;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        Ok(match cx.required("match_pattern", wire.match_pattern)? {
            MatchPattern::NullMatch(_) => Self::Null,
            MatchPattern::DoubleMatch(double) => {
                match cx.required("double_match", double.match_pattern)? {
                    Double::Range(range) => Self::Range(range.start, range.end),
                    Double::Exact(number) => Self::Number(number),
                }
            }
            MatchPattern::StringMatch(text) => {
                Self::Text(cx.field("string_match", |cx| StringMatcher::parse(text, cx))?)
            }
            MatchPattern::BoolMatch(want) => Self::Bool(want),
            MatchPattern::PresentMatch(present) => Self::Present(present),
            MatchPattern::ListMatch(list) => {
                let List::OneOf(item) = cx.required("list_match.one_of", list.match_pattern)?;
                let item = cx.field("list_match.one_of", |cx| Self::parse(*item, depth, cx))?;
                Self::Item(Box::new(item))
            }
            MatchPattern::OrMatch(or) => Self::Or(cx.field("or_match", |cx| {
                cx.each("value_matchers", or.value_matchers, |wire, cx| {
                    Self::parse(wire, depth, cx)
                })
            })?),
        })
    }

    /// True if the value fits.
    pub fn is_match(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Present(present), _) => *present,
            (Self::Or(any), value) => any.iter().any(|matcher| matcher.is_match(value)),
            (Self::Null, Value::Null) => true,
            (Self::Range(start, end), Value::Number(number)) => start <= number && number < end,
            (Self::Number(want), Value::Number(number)) => want == number,
            (Self::Text(matcher), Value::String(text)) => matcher.is_match(text),
            (Self::Bool(want), Value::Bool(truth)) => want == truth,
            (Self::Item(matcher), Value::List(items)) => {
                items.iter().any(|item| matcher.is_match(item))
            }
            _ => false,
        }
    }
}

impl FilterStateMatcher {
    pub(crate) fn parse(wire: pb::FilterStateMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::filter_state_matcher::Matcher;
        let pb::FilterStateMatcher { key, matcher } = wire;
        if key.is_empty() {
            return Err(cx.invalid("key", "is required"));
        }
        let value = match cx.required("matcher", matcher)? {
            Matcher::StringMatch(text) => {
                ObjectMatcher::Text(cx.field("string_match", |cx| StringMatcher::parse(text, cx))?)
            }
            Matcher::AddressMatch(address) => cx.field("address_match", |cx| {
                let pb::AddressMatcher {
                    ranges,
                    invert_match,
                } = address;
                let ranges = cx.each("ranges", ranges, |range, cx| {
                    let range = crate::pb::core::CidrRange {
                        address_prefix: range.address_prefix,
                        prefix_len: range.prefix_len,
                    };
                    cidr(range, cx)
                })?;
                Ok(ObjectMatcher::Address(ranges, invert_match))
            })?,
        };
        Ok(Self { key, value })
    }

    /// True if there is such an object and it fits.
    pub fn is_match(&self, state: Option<&StreamState>) -> bool {
        let object = state.and_then(|state| state.objects.get(self.key.as_str()));
        let Some(text) = object else { return false };
        match &self.value {
            ObjectMatcher::Text(matcher) => matcher.is_match(text),
            ObjectMatcher::Address(ranges, invert) => {
                let address = text
                    .parse()
                    .or_else(|_| text.parse().map(|socket: std::net::SocketAddr| socket.ip()));
                address.is_ok_and(|ip: std::net::IpAddr| {
                    ranges.iter().any(|range| range.contains(&ip)) != *invert
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::{any, json};
    use serde_json::json;

    use super::{MetadataMatcher, StateMatcher};
    use crate::checked::Cx;
    use crate::metadata::Value;
    use crate::stream_state::StreamState;

    fn matcher(value: serde_json::Value, invert: bool) -> MetadataMatcher {
        let route = json!({
            "match": {"prefix": "/", "dynamic_metadata": [{
                "filter": "jwt",
                "path": [{"key": "claims"}, {"key": "groups"}],
                "value": value,
                "invert": invert,
            }]},
        });
        let mut route = route;
        route["@type"] = "type.googleapis.com/envoy.config.route.v3.Route".into();
        let wire: crate::pb::route::Route =
            any::unpack(&json::any_from_value(route).unwrap()).unwrap();
        let wire = wire.r#match.unwrap().dynamic_metadata.remove(0);
        Cx::check(|cx| MetadataMatcher::parse(wire, cx))
            .unwrap()
            .value
    }

    #[test]
    fn values_match_as_in_envoy() {
        let mut state = StreamState::default();
        let tree = Value::from_json(json!({"claims": {"groups": ["admin", 7, true, null]}}));
        if let Value::Object(tree) = tree {
            state.merge("jwt", tree);
        }
        let check = |value: serde_json::Value, want: bool| {
            for invert in [false, true] {
                let matcher = StateMatcher::Metadata(matcher(value.clone(), invert));
                assert_eq!(matcher.is_match(Some(&state)), want != invert, "{value}");
                assert_eq!(matcher.is_match(None), invert, "nothing noted: {value}");
            }
        };
        let item = |value: serde_json::Value| json!({"list_match": {"one_of": value}});
        check(item(json!({"string_match": {"exact": "admin"}})), true);
        check(item(json!({"string_match": {"exact": "adm"}})), false);
        check(item(json!({"double_match": {"exact": 7}})), true);
        check(
            item(json!({"double_match": {"range": {"start": 7, "end": 8}}})),
            true,
        );
        check(
            item(json!({"double_match": {"range": {"start": 6, "end": 7}}})),
            false,
        );
        check(item(json!({"bool_match": true})), true);
        check(item(json!({"null_match": {}})), true);
        check(json!({"string_match": {"exact": "admin"}}), false);
        check(json!({"present_match": true}), true);
        check(
            json!({"or_match": {"value_matchers": [
                {"string_match": {"exact": "x"}}, item(json!({"bool_match": true})),
            ]}}),
            true,
        );
    }
}
