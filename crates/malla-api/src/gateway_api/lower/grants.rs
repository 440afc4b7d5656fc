//! Whether a reference may cross namespaces.

use super::super::GROUP;
use super::Objects;

/// One end of a reference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// Whether an object of the Gateway API of that kind in `from` may refer to `to`.
pub(super) fn allows(objects: &Objects, from_kind: &str, from: &str, to: Target<'_>) -> bool {
    if from == to.namespace {
        return true;
    }
    objects.grants.values().any(|grant| {
        grant.namespace() == to.namespace
            && grant
                .spec
                .from
                .iter()
                .any(|who| who.group == GROUP && who.kind == from_kind && who.namespace == from)
            && grant.spec.to.iter().any(|what| {
                what.group == to.group
                    && what.kind == to.kind
                    && what
                        .name
                        .as_deref()
                        .filter(|name| !name.is_empty())
                        .is_none_or(|name| name == to.name)
            })
    })
}
