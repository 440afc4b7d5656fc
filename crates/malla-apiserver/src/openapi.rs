//! The OpenAPI documents of one registry, with their hashes.

mod gnostic;

use std::collections::BTreeMap;

use bytes::Bytes;
use malla_apimachinery::kind::ResourceKind;
use malla_apimachinery::openapi;

use crate::registry::Registry;

/// All documents, rendered.
#[derive(Debug)]
pub(crate) struct Documents {
    /// Path (`api/v1`, `apis/apps/v1`) to body and hash.
    v3: BTreeMap<String, (Bytes, String)>,
    index: Bytes,
    v2: Bytes,
    v2_protobuf: Bytes,
}

impl Documents {
    pub(crate) fn of(registry: &Registry) -> Self {
        let mut v3 = BTreeMap::new();
        let mut all = Vec::new();
        for group in registry.groups() {
            for version in &group.versions {
                let served = registry.kinds_of(&group.group, version);
                let kinds: Vec<&ResourceKind> = served.iter().map(|s| &*s.kind).collect();
                let body = Bytes::from(openapi::v3(&kinds).to_string());
                let path = match group.group.as_str() {
                    "" => format!("api/{version}"),
                    name => format!("apis/{name}/{version}"),
                };
                let hash = hash(&body);
                v3.insert(path, (body, hash));
                all.extend(served);
            }
        }
        let kinds: Vec<&ResourceKind> = all.iter().map(|s| &*s.kind).collect();
        let paths: Vec<(String, String)> = v3
            .iter()
            .map(|(path, (_, hash))| (path.clone(), hash.clone()))
            .collect();
        let v2 = openapi::v2(&kinds);
        Self {
            index: openapi::v3_index(&paths).to_string().into(),
            v2_protobuf: gnostic::document(&v2).into(),
            v2: v2.to_string().into(),
            v3,
        }
    }

    /// `/openapi/v3`.
    pub(crate) fn index(&self) -> Bytes {
        self.index.clone()
    }

    /// `/openapi/v2`.
    pub(crate) fn v2(&self) -> Bytes {
        self.v2.clone()
    }

    /// `/openapi/v2` as protobuf: the only form kubectl takes it in.
    pub(crate) fn v2_protobuf(&self) -> Bytes {
        self.v2_protobuf.clone()
    }

    /// `/openapi/v3/{path}`.
    pub(crate) fn v3(&self, path: &str) -> Option<(Bytes, &str)> {
        let (body, hash) = self.v3.get(path)?;
        Some((body.clone(), hash))
    }
}

fn hash(body: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, body);
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02X}")).collect()
}
