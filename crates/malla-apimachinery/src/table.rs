//! Server-side printing: `meta.k8s.io/v1` Tables.
use jiff::Timestamp;
use serde_json::Value;

use crate::error::FieldError;

/// The columns of a kind.
#[derive(Debug, Clone)]
pub struct Columns {}

/// `includeObject` of a table request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Rows carry `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// Rows carry the whole object.
    Object,
    /// Rows carry nothing.
    None,
}

impl IncludeObject {
    /// Parses the query parameter; `None` for an unknown word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            "None" => Some(Self::None),
            _ => None,
        }
    }
}

impl Columns {
    /// `additionalPrinterColumns` of a CRD version; errors are relative to `path`.
    pub fn from_crd(columns: Option<&Value>, path: &str) -> Result<Self, Vec<FieldError>> {
        let _ = (columns, path);
        unimplemented!()
    }
    /// A Table of these objects. `metadata` is the list's (resourceVersion, continue), `now` is for ages. Set `with_definitions` to
    /// false for the second and later rows of a watch.
    pub fn table(
        &self,
        objects: &[&Value],
        metadata: Value,
        include: IncludeObject,
        now: Timestamp,
        with_definitions: bool,
    ) -> Value {
        let _ = (objects, metadata, include, now, with_definitions);
        unimplemented!()
    }
}
