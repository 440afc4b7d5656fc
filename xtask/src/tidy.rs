//! House rules that the compiler does not know.
//!
//! Every rule is a function from the tree to complaints; a complaint says where, what and the limit.

mod edges;
mod functions;
mod reach;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const LONGEST_FILE: usize = 800;
const LONGEST_FUNCTION: usize = 100;

/// One Rust file of the project.
pub(crate) struct Source {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Everything there is to complain about, sorted by place.
pub(crate) fn complaints(root: &Path) -> Result<Vec<String>> {
    let sources = sources(root)?;
    let mut found = edges::complaints(root)?;
    found.extend(reach::complaints(&sources));
    for source in &sources {
        let place = source.path.display();
        let lines = source.text.lines().count();
        if lines > LONGEST_FILE {
            found.push(format!(
                "{place}: {lines} lines (at most {LONGEST_FILE}: split it by what it is about)"
            ));
        }
        if !source.text.trim_start().starts_with("//!") {
            found.push(format!(
                "{place}:1: no module doc (start with `//! what this file is for`)"
            ));
        }
        for (line, name, length) in functions::longer_than(&source.text, LONGEST_FUNCTION) {
            found.push(format!(
                "{place}:{line}: fn {name} has {length} lines (at most {LONGEST_FUNCTION})"
            ));
        }
        for (at, line) in source.text.lines().enumerate() {
            found.extend(bad_line(line).map(|what| format!("{place}:{}: {what}", at + 1)));
        }
    }
    found.sort();
    Ok(found)
}

fn bad_line(line: &str) -> Option<&'static str> {
    // Spelled apart, so that this file does not complain about itself.
    let todo = concat!("TO", "DO");
    if line.contains(&format!("// {todo}")) || line.contains(&format!("//{todo}")) {
        return Some("an unfinished note (write what is missing into docs/ with its reason)");
    }
    (line.ends_with(' ') || line.ends_with('\t')).then_some("trailing space")
}

fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![
        root.join("crates"),
        root.join("xtask"),
        root.join("fuzz"),
        root.join("tests"),
    ];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with("node_modules") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let complaints = complaints(&crate::root()).unwrap();
        assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    }

    #[test]
    fn unfinished_notes_and_trailing_spaces_are_found() {
        assert!(bad_line(concat!("// TO", "DO later")).is_some());
        assert!(bad_line("let x = 1; ").is_some());
        assert!(bad_line("let x = 1;").is_none());
    }
}
