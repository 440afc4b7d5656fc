//! Changes to headers and to the query, by filter and by route.

use http::HeaderName;

use crate::checked::{Cx, Invalid, refuse};
use crate::format::Format;
use crate::headers::{AppendAction, HeaderAdd};
use crate::matcher::StringMatcher;
use crate::pb::extensions::filters::http as ext;
use crate::pb::{core, google, mutation_rules as rules};

/// `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMutation {
    /// Of every request and answer.
    pub mutations: Mutations,
    /// The most specific level of routing has the last word; else the least specific has.
    pub most_specific_wins: bool,
}

/// `Mutations`, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mutations {
    /// Of requests.
    pub request: Vec<HeaderEdit>,
    /// Of their queries.
    pub query: Vec<QueryEdit>,
    /// Of answers.
    pub response: Vec<HeaderEdit>,
}

/// One change of headers.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderEdit {
    /// All of this name go.
    Remove(HeaderName),
    /// All whose names match go.
    RemoveMatching(StringMatcher),
    /// One comes.
    Add(HeaderAdd),
}

/// One change of the query.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryEdit {
    /// All of this name go.
    Remove(String),
    /// One comes.
    Add {
        /// Name.
        name: String,
        /// Value.
        value: Format,
        /// What happens if it is there.
        action: AppendAction,
    },
}

impl HeaderMutation {
    pub(super) fn parse(
        wire: ext::header_mutation::v3::HeaderMutation,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let ext::header_mutation::v3::HeaderMutation {
            mutations,
            most_specific_header_mutations_wins,
        } = wire;
        Ok(Self {
            mutations: Mutations::parse(mutations, cx)?,
            most_specific_wins: most_specific_header_mutations_wins,
        })
    }
}

impl Mutations {
    pub(super) fn parse(
        wire: Option<ext::header_mutation::v3::Mutations>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let ext::header_mutation::v3::Mutations {
            request_mutations,
            query_parameter_mutations,
            response_mutations,
            response_trailers_mutations,
            request_trailers_mutations,
        } = wire.unwrap_or_default();
        cx.field("mutations", |cx| {
            refuse!(cx; response_trailers_mutations, request_trailers_mutations);
            Ok(Self {
                request: cx.each("request_mutations", request_mutations, HeaderEdit::parse)?,
                query: cx.each(
                    "query_parameter_mutations",
                    query_parameter_mutations,
                    QueryEdit::parse,
                )?,
                response: cx.each("response_mutations", response_mutations, HeaderEdit::parse)?,
            })
        })
    }
}

impl HeaderEdit {
    pub(crate) fn parse(wire: rules::HeaderMutation, cx: &mut Cx) -> Result<Self, Invalid> {
        use rules::header_mutation::{Action, RemoveOnMatch};
        match cx.required("action", wire.action)? {
            Action::Remove(name) => {
                let name: HeaderName = name
                    .parse()
                    .map_err(|_| cx.invalid("remove", format!("`{name}` is not a header name")))?;
                if name == http::header::HOST {
                    return Err(cx.invalid("remove", "the host cannot be removed"));
                }
                Ok(Self::Remove(name))
            }
            Action::Append(add) => cx
                .field("append", |cx| HeaderAdd::parse(add, cx))
                .map(Self::Add),
            Action::RemoveOnMatch(RemoveOnMatch { key_matcher }) => {
                let matcher = cx.required("remove_on_match.key_matcher", key_matcher)?;
                cx.field("remove_on_match.key_matcher", |cx| {
                    StringMatcher::parse(matcher, cx)
                })
                .map(Self::RemoveMatching)
            }
        }
    }
}

impl QueryEdit {
    fn parse(wire: core::KeyValueMutation, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::key_value_append::KeyValueAppendAction as Wire;
        let core::KeyValueMutation { append, remove } = wire;
        let Some(append) = append else {
            if remove.is_empty() {
                return Err(cx.invalid("", "one of append and remove is required"));
            }
            return Ok(Self::Remove(remove));
        };
        let core::KeyValueAppend {
            record,
            entry,
            action,
        } = append;
        refuse!(cx; entry);
        let core::KeyValuePair { key, value } = cx.required("append.record", record)?;
        let Some(google::value::Kind::StringValue(text)) = value.and_then(|value| value.kind)
        else {
            return Err(cx.invalid("append.record.value", "must be a string"));
        };
        Ok(Self::Add {
            name: key,
            value: Format::compile(&text)
                .map_err(|reason| cx.invalid("append.record.value", reason))?,
            action: match cx.enumeration("append.action", action)? {
                Wire::AppendIfExistsOrAdd => AppendAction::Append,
                Wire::AddIfAbsent => AppendAction::AddIfAbsent,
                Wire::OverwriteIfExistsOrAdd => AppendAction::Overwrite,
                Wire::OverwriteIfExists => AppendAction::OverwriteIfExists,
            },
        })
    }
}
