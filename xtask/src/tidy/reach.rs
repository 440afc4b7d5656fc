//! Files nobody compiles: every `.rs` file is a crate root or declared by a `mod` of its parent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Source;

pub(super) fn complaints(sources: &[Source]) -> Vec<String> {
    let reachable = reachable(sources);
    sources
        .iter()
        .filter(|source| !reachable.contains(&source.path))
        .map(|source| {
            format!(
                "{}: no `mod` leads here, so nothing compiles it",
                source.path.display()
            )
        })
        .collect()
}

fn reachable(sources: &[Source]) -> BTreeSet<PathBuf> {
    let known: BTreeSet<&Path> = sources.iter().map(|source| source.path.as_path()).collect();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&Source> = sources
        .iter()
        .filter(|source| is_root(&source.path))
        .collect();
    while let Some(source) = waiting.pop() {
        if !seen.insert(source.path.clone()) {
            continue;
        }
        for path in children(source) {
            if known.contains(path.as_path()) {
                waiting.extend(sources.iter().filter(|s| s.path == path));
            }
        }
    }
    seen
}

fn is_root(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let folder = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    ["lib.rs", "main.rs", "build.rs"].contains(&name)
        || ["tests", "examples", "benches", "bin", "fuzz_targets"].contains(&folder)
}

/// Files the `mod` lines of a source may mean.
fn children(source: &Source) -> Vec<PathBuf> {
    let folder = source.path.parent().unwrap_or(Path::new(""));
    let stem = source
        .path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    let own = if is_root(&source.path) || stem == "mod" {
        folder.to_owned()
    } else {
        folder.join(stem)
    };
    let mut found = Vec::new();
    for line in source.text.lines().map(str::trim) {
        let Some(rest) = line.strip_suffix(';') else {
            continue;
        };
        let Some((before, name)) = rest.rsplit_once("mod ") else {
            continue;
        };
        if before.is_empty() || before.starts_with("pub") {
            let name = name.trim();
            found.push(own.join(format!("{name}.rs")));
            found.push(own.join(name).join("mod.rs"));
            // A test file's helpers may stand in a folder of its own name.
            found.push(folder.join(stem).join(format!("{name}.rs")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn an_undeclared_file_is_found() {
        let sources = [
            source("crates/a/src/lib.rs", "pub mod b;\n"),
            source("crates/a/src/b.rs", "mod c;\n"),
            source("crates/a/src/b/c.rs", ""),
            source("crates/a/src/b/d.rs", ""),
        ];
        let complaints = complaints(&sources);
        assert!(
            complaints.len() == 1 && complaints[0].contains("b/d.rs"),
            "{complaints:?}"
        );
    }
}
