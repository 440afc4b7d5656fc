//! `malla validate`: Istio's objects in files, checked as the webhook checks them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use malla_api::{Kind, World};
use malla_model::MeshSettings;
use serde_json::Value;

use crate::output::Output;

/// Check files of Istio's objects, one by one, without a cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla validate -f gateway.yaml -f routes/
  kubectl get virtualservices -A -o yaml | malla validate -f -

What objects mean together is `malla analyze`'s to say.
Exit codes: 0 fine, 1 found problems, 2 bad use.")]
pub(crate) struct ValidateArgs {
    /// A file, a folder with files (.yaml, .yml, .json), or `-` for standard input; may be given many times.
    #[arg(short, long = "filename", required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: &ValidateArgs, out: &mut Output) -> Result<ExitCode> {
    let mut refused = false;
    for path in &args.files {
        for file in files(path)? {
            let (valid, text) = check(&file, &read(&file)?)?;
            refused |= !valid;
            out.text(&text);
        }
    }
    Ok(ExitCode::from(u8::from(refused)))
}

/// Itself, or the files of a folder and of those below, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let entries: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    let mut entries = entries.with_context(|| format!("read {}", path.display()))?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let extension = entry.extension().and_then(|extension| extension.to_str());
        if entry.is_dir() || matches!(extension, Some("yaml" | "yml" | "json")) {
            found.extend(files(&entry)?);
        }
    }
    if found.is_empty() {
        bail!("{} has no .yaml, .yml or .json file", path.display());
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("read standard input")?;
    Ok(text)
}

/// Whether all objects of a file may pass, and what there is to say.
fn check(file: &Path, text: &str) -> Result<(bool, String)> {
    let name = file.display().to_string();
    let mut world = World {
        objects: Vec::new(),
        settings: MeshSettings::default(),
        revisions: Vec::new(),
    };
    world.add_yaml(&name, text)?;
    let mut lines = Vec::new();
    let mut valid = true;
    for object in &world.objects {
        let field = |path: &str| {
            object
                .value
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let Some(kind) = Kind::of(field("/apiVersion"), field("/kind")) else {
            continue; // Somebody else's to check.
        };
        let subject = format!(
            "{} {}/{}",
            kind.name(),
            field("/metadata/namespace"),
            field("/metadata/name")
        );
        let at = object.source.as_ref().map_or(0, |source| source.line);
        let report = malla_api::validate(kind, &object.value);
        valid &= report.is_valid();
        for (level, problems) in [("error", &report.errors), ("warning", &report.warnings)] {
            let told = problems.iter();
            lines.extend(
                told.map(|problem| format!("{name}:{at}: {level}: {subject}: {problem}\n")),
            );
        }
    }
    if valid {
        lines.push(format!("{name:?} is valid\n"));
    }
    Ok((valid, lines.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_file_line_object_and_field() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\n\
            apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: base}\n\
            spec:\n  hosts: [a]\n  http:\n  - timeout: 5\n    route: [{destination: {host: a}}]\n";
        let (valid, told) = check(Path::new("a.yaml"), text).unwrap();
        assert!(!valid);
        assert!(
            told.starts_with("a.yaml:5: error: VirtualService base/v: spec.http[0].timeout"),
            "{told}"
        );
        let good = text.replace("timeout: 5", "timeout: 5s");
        assert_eq!(
            check(Path::new("a.yaml"), &good).unwrap(),
            (true, "\"a.yaml\" is valid\n".to_owned())
        );
        assert!(check(Path::new("a.yaml"), "a: [").is_err());
    }
}
