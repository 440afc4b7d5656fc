//! What translation yields: packed xDS resources, each with a version that is a hash of its content.

use std::sync::Arc;

use malla_xds_proto::{Any, any};
use prost::{Message, Name};
use xxhash_rust::xxh3::xxh3_128;

/// One xDS resource, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub name: Arc<str>,
    /// Hexadecimal hash of `body`; equal content has equal versions, in every process.
    pub version: Arc<str>,
    pub body: Arc<Any>,
}

impl Resource {
    /// Packs `message` under `name`.
    #[must_use]
    pub fn new<M: Message + Name>(name: &str, message: &M) -> Self {
        let body = any::pack(message);
        let version = format!("{:032x}", xxh3_128(&body.value));
        Self {
            name: name.into(),
            version: version.into(),
            body: Arc::new(body),
        }
    }
}

/// Everything one proxy needs, each list sorted by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resources {
    pub listeners: Vec<Resource>,
    pub routes: Vec<Resource>,
    pub clusters: Vec<Resource>,
    pub endpoints: Vec<Resource>,
}

pub(crate) fn sorted(mut resources: Vec<Resource>) -> Vec<Resource> {
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    resources
}
