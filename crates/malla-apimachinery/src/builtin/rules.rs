//! Defaults and validations of built-in kinds.
/// The rules of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Rules {}
