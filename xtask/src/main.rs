//! The project's chores: `cargo xtask check | lint | test | differential | golden --bless | fuzz | tidy`.

mod fuzz;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
cargo xtask VERB

  check            type-check everything
  lint             rustfmt, clippy (warnings are errors) and tidy
  test             unit and integration tests of every crate
  differential [AREA|NAME]
                   Envoy and Malla side by side: the cases of tests/differential
  golden --bless   rewrite expected outputs with what the code makes today
  fuzz [--seconds N] [TARGET...]
                   attack the parsers of outside bytes, each for 10 seconds
  tidy             sizes, module docs, crate edges, unreachable files";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr)] // a command-line tool's own words
fn report(text: &str) {
    eprintln!("{text}");
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["check"] => cargo(&["check", "--workspace", "--all-targets"], &[]),
        ["lint"] => {
            cargo(&["fmt", "--all", "--check"], &[])?;
            cargo(
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            )?;
            tidy_up()
        }
        ["test"] => cargo(&["test", "--workspace"], &[]),
        ["differential", ref rest @ ..] if rest.len() < 2 => {
            let wanted = rest.first().copied().unwrap_or_default();
            cargo(
                &[
                    "test",
                    "-p",
                    "malla-proxy",
                    "--test",
                    "differential",
                    "--",
                    "--nocapture",
                    "both_proxies_do_the_same",
                ],
                &[("MALLA_DIFFERENTIAL", wanted)],
            )
        }
        ["golden", "--bless"] => cargo(
            &["test", "-p", "malla-translate"],
            &[("UPDATE_EXPECT", "1")],
        ),
        ["fuzz", ref rest @ ..] => fuzz::run(&root(), rest, report),
        ["tidy"] => tidy_up(),
        _ => {
            report(USAGE);
            bail!("unknown verb {words:?}")
        }
    }
}

fn tidy_up() -> Result<()> {
    let complaints = tidy::complaints(&root())?;
    complaints.iter().for_each(|complaint| report(complaint));
    if complaints.is_empty() {
        Ok(())
    } else {
        bail!("{} things to tidy", complaints.len())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = Command::new("cargo")
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root())
        .status()
        .context("run cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("cargo {} failed", arguments.join(" "))
    }
}
