//! `cargo xtask fuzz`: builds the targets of `fuzz/` with libFuzzer's instrumentation and runs each for a while, as many side by
//! side as there are processors.
//!
//! The stable compiler can do it: the instrumentation is an LLVM pass. (AddressSanitizer is not in it; for that there is
//! `cargo +nightly fuzz`.) What a run discovers stays in the target directory, failures go to `fuzz/artifacts`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::{str, thread};

use anyhow::{Context as _, Result, bail};

/// What cargo-fuzz passes, without its sanitizer; and the `cfg` that shows private parsers.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

const DEFAULT_SECONDS: u32 = 10;

/// What is asked for: `[--seconds N] [TARGET...]`.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    seconds: u32,
    targets: Vec<String>,
}

/// Runs `words` after `fuzz`; `say` prints a line.
pub(crate) fn run(root: &Path, words: &[&str], say: impl Fn(&str) + Sync) -> Result<()> {
    let folder = root.join("fuzz");
    let Wanted { seconds, targets } = parse(words, &targets(&folder)?)?;
    let host = host()?;
    let output = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || folder.join("target"),
        |given| Path::new(&given).join("fuzz"),
    );
    build(&folder, &host, &output, &targets)?;
    let one = |target: &str| {
        let binary = output.join(&host).join("release").join(target);
        let outcome = attack(&folder, &output, &binary, target, seconds)?;
        say(&format!(
            "{target:<20} {:>9} runs  {}",
            outcome.runs, outcome.verdict
        ));
        Ok(outcome.failed)
    };
    let failed = side_by_side(&targets, one)?;
    if failed.is_empty() {
        Ok(())
    } else {
        bail!(
            "{} failed; `BINARY INPUT` runs one input again",
            failed.join(", ")
        )
    }
}

/// Those that `one` has answered with `true`; each processor takes the next in turn.
fn side_by_side(
    targets: &[String],
    one: impl Fn(&str) -> Result<bool> + Sync,
) -> Result<Vec<&str>> {
    let next = Mutex::new(targets.iter());
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut failed = Vec::new();
        while let Some(target) = take() {
            if one(target)? {
                failed.push(target.as_str());
            }
        }
        Ok(failed)
    };
    let processors = thread::available_parallelism()?.get();
    let mut failed = thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect::<Result<Vec<_>>>()
    })?
    .concat();
    failed.sort_unstable();
    Ok(failed)
}

fn parse(words: &[&str], known: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted {
        seconds: DEFAULT_SECONDS,
        targets: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => {
                let given = words.next().context("--seconds needs a number")?;
                wanted.seconds = given
                    .parse()
                    .with_context(|| format!("--seconds {given}"))?;
            }
            name if known.iter().any(|known| known == name) => wanted.targets.push(name.to_owned()),
            name => bail!("no target {name} (there are: {})", known.join(", ")),
        }
    }
    if wanted.targets.is_empty() {
        wanted.targets = known.to_vec();
    }
    Ok(wanted)
}

/// Names of the files in `fuzz_targets`, sorted.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder.join("fuzz_targets")).context("read fuzz/fuzz_targets")?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Naming the target keeps the flags away from build scripts and procedural macros.
fn host() -> Result<String> {
    let answer = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("run rustc")?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV tells no host")
}

fn build(folder: &Path, host: &str, output: &Path, targets: &[String]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--release",
            "--features",
            "fuzzer",
            "--target",
            host,
            "--target-dir",
        ])
        .arg(output);
    for target in targets {
        cargo.args(["--bin", target]);
    }
    let status = cargo
        .env("RUSTFLAGS", FLAGS)
        .current_dir(folder)
        .status()
        .context("run cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("the fuzz targets do not build")
    }
}

struct Outcome {
    runs: String,
    verdict: String,
    failed: bool,
}

/// Runs one target; with zero seconds it only replays what is kept.
fn attack(
    folder: &Path,
    output: &Path,
    binary: &Path,
    target: &str,
    seconds: u32,
) -> Result<Outcome> {
    let (found, artifacts) = (
        output.join("found").join(target),
        folder.join("artifacts").join(target),
    );
    let corpus = folder.join("corpus").join(target);
    if fs::read_dir(&corpus).map_or(0, Iterator::count) == 0 {
        bail!("{} has no input to start with", corpus.display());
    }
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let limit = match seconds {
        0 => "-runs=0".to_owned(),
        seconds => format!("-max_total_time={seconds}"),
    };
    // A short run begins the same everywhere: what it finds is more likely a change's doing than chance's.
    let seed = if seconds > DEFAULT_SECONDS { 0 } else { 1 };
    let log = output.join("found").join(format!("{target}.log"));
    let status = Command::new(binary)
        .args([&found, &corpus])
        .args([
            limit.as_str(),
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-max_len=4096",
            "-print_final_stats=1",
        ])
        .arg(format!("-seed={seed}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).with_context(|| log.display().to_string())?)
        .status()
        .with_context(|| format!("run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log).with_context(|| log.display().to_string())?)
        .into_owned();
    Ok(Outcome {
        runs: runs(&text).unwrap_or("?").to_owned(),
        verdict: if status.success() {
            "ok".to_owned()
        } else {
            failure(&text, &log)
        },
        failed: !status.success(),
    })
}

fn runs(log: &str) -> Option<&str> {
    let stat = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    stat.map(str::trim)
}

/// The panic and the file with the input that caused it.
fn failure(log: &str, at: &Path) -> String {
    let panic = log
        .lines()
        .skip_while(|line| !line.contains("panicked at"))
        .nth(1);
    let other = || {
        log.lines()
            .find(|line| line.starts_with("==") && line.contains("ERROR"))
    };
    let file = log.lines().find_map(|line| {
        line.split_once("Test unit written to ")
            .map(|(_, file)| file)
    });
    format!(
        "FAILED: {} ({}; all of it in {})",
        panic.or_else(other).unwrap_or("it ended by itself"),
        file.unwrap_or("no input was written"),
        at.display()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::{Wanted, failure, parse, runs, side_by_side, targets};

    #[test]
    fn words_are_understood() {
        let known = ["path".to_owned(), "sniff".to_owned()];
        let all = Wanted {
            seconds: 10,
            targets: known.to_vec(),
        };
        assert_eq!(parse(&[], &known).unwrap(), all);
        let some = Wanted {
            seconds: 60,
            targets: vec!["sniff".to_owned()],
        };
        assert_eq!(parse(&["--seconds", "60", "sniff"], &known).unwrap(), some);
        for bad in [&["x"][..], &["--seconds"], &["--seconds", "x"]] {
            assert!(parse(bad, &known).is_err(), "{bad:?}");
        }
    }

    /// `fuzz/tests/replay.rs` goes through the list in the library, this through the files.
    #[test]
    fn every_target_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let library = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        let listed = library
            .lines()
            .filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"'));
        let listed: Vec<&str> = listed.map(|(name, _)| name).collect();
        assert_eq!(listed, targets(&folder).unwrap());
    }

    #[test]
    fn each_is_run_once_and_failures_are_told_in_order() {
        let all: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
        let seen = Mutex::new(Vec::new());
        let failed = side_by_side(&all, |target| {
            seen.lock().unwrap().push(target.to_owned());
            Ok(target.ends_with('3'))
        });
        assert_eq!(failed.unwrap(), ["03", "13"]);
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, all);
        assert!(side_by_side(&all, |_| anyhow::bail!("no")).is_err());
    }

    #[test]
    fn logs_are_understood() {
        let log = "thread '<unnamed>' panicked at a.rs:1:2:\nno\nstat::number_of_executed_units: 12\n\
            artifact_prefix='x/'; Test unit written to x/crash-1\n";
        assert_eq!(runs(log), Some("12"));
        assert_eq!(
            failure(log, Path::new("y.log")),
            "FAILED: no (x/crash-1; all of it in y.log)"
        );
    }
}
