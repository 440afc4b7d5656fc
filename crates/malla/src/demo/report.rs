//! What the cluster tells its launcher, one JSON object a line over the sandbox's control stream,
//! and what of it is kept in the ready file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// From the cluster to the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// A step is done.
    Done(String),
    /// Something the user should know, and that stops nothing.
    Warning(String),
    Ready(Ready),
    /// It cannot go on; the text says why and what to do.
    Failed(String),
}

/// The ready file (`--ready-file`), and what the user is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The shop's address; `None` without a shop.
    pub(crate) shop: Option<String>,
    /// The console's address; `None` without a mesh.
    pub(crate) console: Option<String>,
    pub(crate) clusters: Vec<ClusterReady>,
    /// Process ids as this machine sees them.
    pub(crate) pids: BTreeMap<String, i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterReady {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) kubeconfig: PathBuf,
    /// The ingress gateway's address.
    pub(crate) ingress: String,
}

impl Ready {
    /// Writes the file in one step, so that whoever waits for it reads all of it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the ready file")? + "\n";
        let draft = path.with_extension("tmp");
        std::fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
        std::fs::rename(&draft, path).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_has_the_promised_shape() {
        let ready = Ready {
            shop: Some("http://127.0.0.1:8080/".into()),
            console: None,
            clusters: vec![ClusterReady {
                name: "local".into(),
                zone: "north-a".into(),
                kubeconfig: "/tmp/kubeconfig".into(),
                ingress: "http://127.0.0.1:8080".into(),
            }],
            pids: [("launcher".to_owned(), 1)].into(),
        };
        let value = serde_json::to_value(&ready).unwrap();
        assert_eq!(value["clusters"][0]["ingress"], "http://127.0.0.1:8080");
        assert_eq!(value["pids"]["launcher"], 1);
        assert!(value["console"].is_null());
    }
}
