//! Which crate may use which: the layers of ARCHITECTURE.md as data. A new edge is a decision.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Crate, and the crates of ours it may depend on (development dependencies are free).
const EDGES: &[(&str, &[&str])] = &[
    ("malla-model", &[]),
    ("malla-xds-proto", &[]),
    ("malla-apimachinery", &[]),
    ("malla-runtime", &[]),
    ("malla-redirect", &[]),
    ("malla-shop", &[]),
    ("malla-api", &["malla-model", "malla-xds-proto"]),
    ("malla-translate", &["malla-model", "malla-xds-proto"]),
    (
        "malla-proxy-config",
        &["malla-apimachinery", "malla-model", "malla-xds-proto"],
    ),
    ("malla-xds", &["malla-runtime", "malla-xds-proto"]),
    (
        "malla-identity",
        &["malla-model", "malla-runtime", "malla-xds-proto"],
    ),
    ("malla-apiserver", &["malla-apimachinery", "malla-runtime"]),
    (
        "malla-local",
        &["malla-apimachinery", "malla-apiserver", "malla-runtime"],
    ),
    (
        "malla-control",
        &[
            "malla-api",
            "malla-identity",
            "malla-model",
            "malla-redirect",
            "malla-runtime",
            "malla-translate",
            "malla-xds",
            "malla-xds-proto",
        ],
    ),
    (
        "malla-proxy",
        &[
            "malla-identity",
            "malla-proxy-config",
            "malla-runtime",
            "malla-xds",
            "malla-xds-proto",
        ],
    ),
    (
        "malla-agent",
        &[
            "malla-identity",
            "malla-model",
            "malla-runtime",
            "malla-xds",
            "malla-xds-proto",
        ],
    ),
    ("malla-telemetry", &["malla-runtime", "malla-xds-proto"]),
    (
        "malla-console",
        &[
            "malla-api",
            "malla-model",
            "malla-runtime",
            "malla-telemetry",
        ],
    ),
    ("malla-testkit", &[]),
    ("xtask", &[]),
];

/// The binary wires everything together.
const FREE: &str = "malla";

pub(super) fn complaints(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    Ok(judge(&edges(&metadata)))
}

fn edges(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| {
            let name = package["name"].as_str().unwrap_or_default().to_owned();
            let uses = package["dependencies"].as_array().into_iter().flatten();
            let uses = uses
                .filter(|d| d["kind"].is_null())
                .filter_map(|d| d["name"].as_str())
                .filter(|d| d.starts_with("malla"))
                .map(str::to_owned)
                .collect();
            (name, uses)
        })
        .collect()
}

fn judge(edges: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut found = Vec::new();
    for (name, uses) in edges.iter().filter(|(name, _)| *name != FREE) {
        let Some(may) = allowed.get(name.as_str()) else {
            found.push(format!(
                "crates/{name}: not in the layers (xtask/src/tidy/edges.rs and ARCHITECTURE.md)"
            ));
            continue;
        };
        for used in uses.iter().filter(|used| !may.contains(&used.as_str())) {
            found.push(format!(
                "crates/{name}: may not depend on {used} (xtask/src/tidy/edges.rs)"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upward_arrow_is_found() {
        let edges = [("malla-model".to_owned(), vec!["malla-api".to_owned()])].into();
        assert_eq!(judge(&edges).len(), 1);
    }

    #[test]
    fn control_and_proxy_never_meet() {
        for (name, uses) in EDGES {
            let both = [*name]
                .iter()
                .chain(uses.iter())
                .filter(|c| ["malla-control", "malla-proxy"].contains(c))
                .count();
            assert!(both < 2, "{name}");
        }
    }
}
