//! The runtime as it is now: layers of the bootstrap, of files, and of the admin endpoint.
//!
//! Invariant: [`Runtime::values`] is what the layers say together; whoever changes a layer has the resources that depend
//! on it read again.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use malla_proxy_config::runtime::{Layer, LayerKind, Value, Values};
use serde_json::json;

/// Largest file of a value, bytes.
const MAX_FILE: u64 = 64 << 10;
/// Most files of a layer, and how deep they may be.
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 16;

/// All layers.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    layers: Vec<(Layer, BTreeMap<String, Value>)>,
    cluster: String,
    values: Arc<Values>,
}

impl Runtime {
    /// The layers of a bootstrap, their files read. `cluster` is `node.cluster`.
    pub(crate) fn new(layers: Vec<Layer>, cluster: &str) -> Self {
        let layers = layers.into_iter().map(|layer| {
            let values = match &layer.kind {
                LayerKind::Static(values) => values.clone(),
                LayerKind::Disk { .. } | LayerKind::Admin => BTreeMap::new(),
            };
            (layer, values)
        });
        let mut runtime = Self {
            layers: layers.collect(),
            cluster: cluster.to_owned(),
            values: Arc::default(),
        };
        runtime.read_files();
        runtime
    }

    /// What rules now.
    pub(crate) fn values(&self) -> &Arc<Values> {
        &self.values
    }

    /// Reads the files again; the keys that changed.
    pub(crate) fn read_files(&mut self) -> BTreeSet<String> {
        for (layer, values) in &mut self.layers {
            if let Some(folder) = folder(layer, &self.cluster) {
                *values = read_tree(&folder);
            }
        }
        self.merge()
    }

    /// The directories in which a move means that files changed.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let roots = self
            .layers
            .iter()
            .filter_map(|(layer, _)| match &layer.kind {
                LayerKind::Disk { symlink_root, .. } => symlink_root.parent(),
                LayerKind::Static(_) | LayerKind::Admin => None,
            });
        roots.map(Path::to_owned).collect()
    }

    /// Overrides values (`/runtime_modify`); an empty value takes the override back. The keys that changed.
    ///
    /// # Errors
    /// When no layer is there for it.
    pub(crate) fn modify(
        &mut self,
        changes: &[(String, String)],
    ) -> Result<BTreeSet<String>, &'static str> {
        let admin = self
            .layers
            .iter_mut()
            .find(|(layer, _)| layer.kind == LayerKind::Admin);
        let (_, values) = admin.ok_or("No admin layer specified")?;
        for (key, text) in changes {
            if text.is_empty() {
                values.remove(key);
            } else {
                values.insert(key.clone(), Value::new(text));
            }
        }
        Ok(self.merge())
    }

    /// `/runtime`.
    pub(crate) fn show(&self) -> serde_json::Value {
        let names: Vec<&str> = self.layers.iter().map(|(layer, _)| &*layer.name).collect();
        let mut entries = serde_json::Map::new();
        for (key, value) in self.values.iter() {
            let of_layer = |(_, values): &(Layer, BTreeMap<String, Value>)| {
                values
                    .get(key)
                    .map(|value| value.text.clone())
                    .unwrap_or_default()
            };
            let layers: Vec<String> = self.layers.iter().map(of_layer).collect();
            entries.insert(
                key.clone(),
                json!({ "layer_values": layers, "final_value": value.text }),
            );
        }
        json!({ "layers": names, "entries": entries })
    }

    fn merge(&mut self) -> BTreeSet<String> {
        let merged = Values::merged(self.layers.iter().map(|(_, values)| values));
        let differs = |a: &Values, b: &Values| -> Vec<String> {
            let keys = a.iter().filter(|(key, value)| b.get(key) != Some(value));
            keys.map(|(key, _)| key.clone()).collect()
        };
        let mut changed: BTreeSet<String> = differs(&merged, &self.values).into_iter().collect();
        changed.extend(differs(&self.values, &merged));
        self.values = Arc::new(merged);
        changed
    }
}

fn folder(layer: &Layer, cluster: &str) -> Option<PathBuf> {
    match &layer.kind {
        LayerKind::Disk {
            symlink_root,
            subdirectory,
            append_service_cluster,
        } => {
            let folder = symlink_root.join(subdirectory);
            Some(match append_service_cluster {
                true => folder.join(cluster),
                false => folder,
            })
        }
        LayerKind::Static(_) | LayerKind::Admin => None,
    }
}

/// One value for each file, its path with dots for its key. A folder that is not there has none, as in Envoy.
fn read_tree(root: &Path) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let key = match &*prefix {
                "" => name,
                prefix => format!("{prefix}.{name}"),
            };
            let path = entry.path();
            match std::fs::metadata(&path) {
                Ok(known) if known.is_dir() && depth < MAX_DEPTH => {
                    folders.push((path, key, depth + 1));
                }
                Ok(known)
                    if known.is_file() && known.len() <= MAX_FILE && values.len() < MAX_FILES =>
                {
                    if let Ok(text) = std::fs::read_to_string(&path) {
                        values.insert(key, Value::new(uncommented(&text)));
                    }
                }
                _ => {
                    let path = path.display();
                    tracing::warn!(%path, "a runtime file is too large, too deep, or cannot be read");
                }
            }
        }
    }
    values
}

/// Lines that begin with `#` are comments.
fn uncommented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// Whether a resource may depend on one of these keys: the key, or what it begins with, stands in it.
pub(crate) fn depends(body: &[u8], name: &str, keys: &BTreeSet<String>) -> bool {
    let holds =
        |part: &str| !part.is_empty() && memchr::memmem::find(body, part.as_bytes()).is_some();
    keys.iter().any(|key| {
        holds(key)
            || key
                .match_indices('.')
                .any(|(at, _)| holds(&key[..at]) && key[at..].len() > 1)
            || (key.starts_with("envoy.resource_limits.listener.") && key.contains(name))
    })
}

#[cfg(test)]
mod tests {
    use super::{Runtime, depends};
    use malla_proxy_config::runtime::{Layer, LayerKind};

    fn layer(name: &str, kind: LayerKind) -> Layer {
        Layer {
            name: name.into(),
            kind,
        }
    }

    #[test]
    fn files_are_values_and_the_admin_overrides_them() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("v1/us/a");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("b"), "# a comment\n17\n").unwrap();
        std::fs::write(tree.join(".hidden"), "1").unwrap();
        let disk = LayerKind::Disk {
            symlink_root: folder.path().join("v1"),
            subdirectory: "".into(),
            append_service_cluster: true,
        };
        let mut runtime = Runtime::new(
            vec![layer("disk", disk), layer("admin", LayerKind::Admin)],
            "us",
        );
        assert_eq!(runtime.values().integer("a.b"), Some(17));
        assert_eq!(runtime.values().iter().count(), 1);
        let set = |value: &str| [("a.b".to_owned(), value.to_owned())];
        let changed = runtime.modify(&set("5")).unwrap();
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(runtime.values().integer("a.b"), Some(5));
        assert_eq!(runtime.show()["entries"]["a.b"]["layer_values"][0], "17");
        assert!(!runtime.modify(&set("")).unwrap().is_empty());
        assert_eq!(runtime.values().integer("a.b"), Some(17));
        std::fs::write(tree.join("b"), "18").unwrap();
        assert!(!runtime.read_files().is_empty());
        assert_eq!(runtime.values().integer("a.b"), Some(18));
        let mut fixed = Runtime::new(
            vec![layer("disk", LayerKind::Static(Default::default()))],
            "",
        );
        assert!(fixed.modify(&set("1")).is_err());
    }

    #[test]
    fn only_what_names_a_key_is_read_again() {
        let check = |body: &str, key: &str, want: bool| {
            let keys = std::iter::once(key.to_owned()).collect();
            assert_eq!(depends(body.as_bytes(), "web", &keys), want, "{body} {key}");
        };
        check("..a.b..", "a.b", true);
        check("..weights..", "weights.cluster", true);
        check("..other..", "a.b", false);
        check(
            "..",
            "envoy.resource_limits.listener.web.connection_limit",
            true,
        );
        check("..", "", false);
    }
}
