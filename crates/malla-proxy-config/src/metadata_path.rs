//! `envoy.type.metadata.v3.MetadataKey`: where something is in metadata.

use crate::checked::{Cx, Invalid};
use crate::metadata::{Metadata, Value};
use crate::pb::metadata_type as pb;

/// A namespace and the keys inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataPath {
    /// Namespace, often the name of the filter that writes it.
    pub namespace: String,
    /// Keys, from the outside in; never empty.
    pub keys: Vec<String>,
}

impl MetadataPath {
    pub(crate) fn parse(wire: pb::MetadataKey, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::metadata_key::path_segment::Segment;
        let pb::MetadataKey { key, path } = wire;
        if key.is_empty() {
            return Err(cx.invalid("key", "is required"));
        }
        if path.is_empty() {
            return Err(cx.invalid("path", "at least one key is required"));
        }
        let keys = cx.each("path", path, |segment, cx| {
            match cx.required("key", segment.segment)? {
                Segment::Key(key) => Ok(key),
                Segment::Index(_) => {
                    Err(cx.invalid("index", "only keys are supported by this proxy"))
                }
            }
        })?;
        Ok(Self {
            namespace: key,
            keys,
        })
    }

    /// What is there.
    pub fn find<'m>(&self, metadata: &'m Metadata) -> Option<&'m Value> {
        metadata.at(&self.namespace, &self.keys)
    }
}
