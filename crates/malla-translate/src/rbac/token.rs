//! What a policy asks of a request's token.

use malla_model::policy::Glob;
use malla_xds_proto::matcher::metadata_matcher::{PathSegment, path_segment};
use malla_xds_proto::matcher::{
    ListMatcher, MetadataMatcher, ValueMatcher, list_matcher, value_matcher,
};
use malla_xds_proto::rbac::principal::{Identifier, Set};
use malla_xds_proto::rbac::{MetadataSource, Principal, SourcedMetadata};

use super::principal::{all, never, principal};
use super::text::glob;
use crate::node::Profile;
use crate::view::View;

const JWT_FILTER: &str = "envoy.filters.http.jwt_authn";
/// Where the JWT filter leaves a token's claims.
const JWT_PAYLOAD: &str = "payload";

/// `issuer/subject`, where the issuer may hold slashes and the subject may not.
pub(super) fn request_principal(view: &View<'_>, name: &Glob) -> Principal {
    let both = |issuer: &Glob, subject: &Glob| {
        all(vec![
            claim(view, &["iss"], issuer),
            claim(view, &["sub"], subject),
        ])
    };
    match name {
        Glob::Present => both(&Glob::Present, &Glob::Present),
        Glob::Exact(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => {
                both(&Glob::Exact(issuer.into()), &Glob::Exact(subject.into()))
            }
            None => never(),
        },
        Glob::Prefix(text) => {
            let issuer_only = both(&Glob::Prefix(text.clone()), &Glob::Present);
            match text.rsplit_once('/') {
                // The text may end within the subject, or within an issuer that holds slashes.
                Some((issuer, subject)) => {
                    let subject = if subject.is_empty() {
                        Glob::Present
                    } else {
                        Glob::Prefix(subject.into())
                    };
                    let split = both(&Glob::Exact(issuer.into()), &subject);
                    principal(Identifier::OrIds(Set {
                        ids: vec![split, issuer_only],
                    }))
                }
                None => issuer_only,
            }
        }
        Glob::Suffix(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => {
                let issuer = if issuer.is_empty() {
                    Glob::Present
                } else {
                    Glob::Suffix(issuer.into())
                };
                both(&issuer, &Glob::Exact(subject.into()))
            }
            None => both(&Glob::Present, &Glob::Suffix(text.clone())),
        },
    }
}

/// A claim of the request's token: a text, or a list that holds it.
pub(super) fn claim(view: &View<'_>, path: &[&str], value: &Glob) -> Principal {
    if view.node.profile == Profile::Malla {
        // It verifies no tokens yet, so no request has claims.
        return never();
    }
    let text = || {
        Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(glob(
                value, "", false,
            ))),
        })
    };
    let matching = |value: Option<ValueMatcher>| {
        let matcher = MetadataMatcher {
            filter: JWT_FILTER.into(),
            path: std::iter::once(&JWT_PAYLOAD)
                .chain(path)
                .map(|key| PathSegment {
                    segment: Some(path_segment::Segment::Key((*key).to_owned())),
                })
                .collect(),
            value,
            ..MetadataMatcher::default()
        };
        principal(Identifier::SourcedMetadata(SourcedMetadata {
            metadata_matcher: Some(matcher),
            metadata_source: MetadataSource::Dynamic.into(),
        }))
    };
    let list = text().map(|one| ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(
            ListMatcher {
                match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(one))),
            },
        ))),
    });
    principal(Identifier::OrIds(Set {
        ids: vec![matching(text()), matching(list)],
    }))
}
