//! The built-in kinds.
pub mod rules;

use crate::kind::ResourceKind;

/// All built-in kinds. Building takes some milliseconds: do it once and share.
pub fn kinds() -> Vec<ResourceKind> {
    unimplemented!()
}
