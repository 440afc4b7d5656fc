//! The bootstrap that a command line names: a file, text beside it, and who the proxy is.
use std::path::PathBuf;

use malla_xds_proto::bootstrap as pb;
use prost::Message as _;

use super::StartError;

/// What Envoy's command line says of the same names.
#[derive(Debug, Clone, Default)]
pub struct BootstrapFile {
    /// `--config-path`: YAML, JSON, or binary (`.pb`).
    pub path: Option<PathBuf>,
    /// `--config-yaml`: merged over the file.
    pub yaml: Option<String>,
    /// `--service-node`, for `node.id`.
    pub node: Option<String>,
    /// `--service-cluster`, for `node.cluster`.
    pub cluster: Option<String>,
    /// `--service-zone`, for `node.locality.zone`.
    pub zone: Option<String>,
}

impl BootstrapFile {
    /// Just a file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        let path = self.path.as_ref();
        path.map_or_else(String::new, |path| path.display().to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// When there is nothing to read, it cannot be read, or is no Envoy bootstrap; the error names the field.
    pub fn read(&self) -> Result<pb::Bootstrap, StartError> {
        let mut bootstrap = match &self.path {
            Some(path) => self.parse_file(path)?,
            None if self.yaml.is_none() => return Err(StartError::NoConfig),
            None => pb::Bootstrap::default(),
        };
        if let Some(text) = &self.yaml {
            let over: pb::Bootstrap = from_yaml(text, "--config-yaml")?;
            // Protobuf's own way: messages are merged, lists appended, the rest replaced.
            bootstrap
                .merge(&*over.encode_to_vec())
                .map_err(|error| parse_error("--config-yaml", &error))?;
        }
        if self.node.is_some() || self.cluster.is_some() || self.zone.is_some() {
            let node = bootstrap.node.get_or_insert_default();
            if let Some(id) = &self.node {
                node.id.clone_from(id);
            }
            if let Some(cluster) = &self.cluster {
                node.cluster.clone_from(cluster);
            }
            if let Some(zone) = &self.zone {
                node.locality.get_or_insert_default().zone.clone_from(zone);
            }
        }
        Ok(bootstrap)
    }

    fn parse_file(&self, path: &PathBuf) -> Result<pb::Bootstrap, StartError> {
        let name = self.name();
        let bytes = std::fs::read(path).map_err(|source| StartError::Read {
            path: name.clone(),
            source,
        })?;
        if path.extension().is_some_and(|extension| extension == "pb") {
            return pb::Bootstrap::decode(&*bytes).map_err(|error| parse_error(&name, &error));
        }
        let text = String::from_utf8(bytes).map_err(|error| parse_error(&name, &error))?;
        from_yaml(&text, &name)
    }
}

fn from_yaml(text: &str, name: &str) -> Result<pb::Bootstrap, StartError> {
    malla_xds_proto::json::from_yaml(text).map_err(|error| parse_error(name, &error))
}

fn parse_error(path: &str, error: &dyn std::error::Error) -> StartError {
    StartError::Parse {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::BootstrapFile;

    #[test]
    fn text_is_merged_over_the_file_and_names_over_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("envoy.yaml");
        std::fs::write(
            &path,
            "node: { id: a, cluster: c }\nstatic_resources: { clusters: [ { name: one } ] }",
        )
        .unwrap();
        let file = BootstrapFile {
            yaml: Some(
                "{ node: { id: b }, static_resources: { clusters: [ { name: two } ] } }".into(),
            ),
            zone: Some("z".into()),
            ..BootstrapFile::at(&path)
        };
        let read = file.read().unwrap();
        let node = read.node.unwrap();
        assert_eq!((&*node.id, &*node.cluster), ("b", "c"));
        assert_eq!(node.locality.unwrap().zone, "z");
        let clusters = read.static_resources.unwrap().clusters;
        let names: Vec<&str> = clusters.iter().map(|cluster| &*cluster.name).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |file: BootstrapFile, want: &str| {
            let error = file.read().unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        check(BootstrapFile::default(), "--config-path or --config-yaml");
        check(BootstrapFile::at("/no/such.yaml"), "/no/such.yaml");
        let text = BootstrapFile {
            yaml: Some("{ bogus: 1 }".into()),
            ..BootstrapFile::default()
        };
        check(text, "bogus");
    }
}
