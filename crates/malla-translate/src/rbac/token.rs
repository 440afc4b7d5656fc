//! What a policy asks of a request's token.

use malla_model::policy::Glob;
use malla_xds_proto::rbac::principal::{Identifier, Set};
use malla_xds_proto::rbac::{MetadataSource, Principal, SourcedMetadata};

use super::principal::{all, never, principal};
use super::text::glob;
use crate::jwt;

/// `issuer/subject`, where the issuer may hold slashes and the subject may not.
pub(super) fn request_principal(name: &Glob) -> Principal {
    let both = |issuer: &Glob, subject: &Glob| {
        all(vec![claim(&["iss"], issuer), claim(&["sub"], subject)])
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

/// A claim of the request's token.
pub(super) fn claim(path: &[&str], value: &Glob) -> Principal {
    let matcher = jwt::claim(path.iter().copied(), glob(value, "", false));
    principal(Identifier::SourcedMetadata(SourcedMetadata {
        metadata_matcher: Some(matcher),
        metadata_source: MetadataSource::Dynamic.into(),
    }))
}
