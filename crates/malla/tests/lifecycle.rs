//! What a demo leaves behind, however it ends, and what it says when it cannot start.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use malla_testkit::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

const SOON: Duration = Duration::from_secs(30);
const MALLA: &str = env!("CARGO_BIN_EXE_malla");

/// A demo without the shop, whose temporary files are below a folder of the test's own.
struct Running {
    process: Child,
    /// What it printed on standard error so far.
    said: String,
}

/// A command line before `malla` (to change who runs it or what it may do).
fn command(before: &[&str], temporary: &Path) -> Command {
    let words: Vec<&str> = before.iter().copied().chain([MALLA]).collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args(["demo", "--no-shop"])
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

impl Running {
    fn start(before: &[&str], temporary: &Path) -> Self {
        let mut process = command(before, temporary).spawn().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        while !said.contains("ingress gateway") {
            let read = lines.read_line(&mut said).unwrap();
            assert!(read > 0, "the demo ended: {said}");
        }
        Self { process, said }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    fn ended(mut self) -> String {
        self.process.wait().unwrap();
        self.said
    }
}

/// Starts a demo that cannot start, and returns its words.
fn refused(before: &[&str], more: &[&str], temporary: &Path) -> String {
    let mut process = command(before, temporary).args(more).spawn().unwrap();
    let mut said = String::new();
    let mut stderr = process.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let status = process.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    let errors = said.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{said}");
    said
}

fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("malla-lifecycle-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Clusters' folders below a temporary folder.
fn clusters(temporary: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for user in fs::read_dir(temporary).unwrap() {
        let entries = fs::read_dir(user.unwrap().path()).into_iter().flatten();
        found.extend(entries.map(|entry| entry.unwrap().path()));
    }
    found
}

/// Processes whose environment or arguments lead to a folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
        let text = [read("environ"), read("cmdline")].concat();
        let own = process.ends_with(std::process::id().to_string());
        if !own && String::from_utf8_lossy(&text).contains(folder) {
            found.push(process.display().to_string());
        }
    }
    found
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn ctrl_c_removes_everything() {
    let (temporary, before) = (folder("ctrl-c"), interfaces());
    let demo = Running::start(&[], &temporary);
    assert_eq!(clusters(&temporary).len(), 1);
    demo.signal(Signal::SIGINT);
    demo.ended();
    assert!(processes_of(&temporary).is_empty());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert_eq!(interfaces(), before);
    fs::remove_dir(&temporary).unwrap();
}

#[test]
fn after_kill_9_nothing_runs_and_the_next_start_tidies_up() {
    let (temporary, before) = (folder("kill-9"), interfaces());
    let first = Running::start(&[], &temporary);
    let stale = clusters(&temporary).remove(0);
    first.signal(Signal::SIGKILL);
    first.ended();
    eventually("every process has ended", SOON, || {
        match processes_of(&temporary) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
    // A process shows no environment any more a moment before the kernel closes its files.
    eventually("nobody has the cluster's folder locked", SOON, || {
        fs::File::open(stale.join("lock")).unwrap().try_lock()
    });
    assert_eq!(interfaces(), before);
    let second = Running::start(&[], &temporary);
    assert!(!stale.exists());
    second.signal(Signal::SIGTERM);
    second.ended();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    fs::remove_dir(&temporary).unwrap();
}

#[test]
fn two_demos_and_a_taken_port_do_not_meet() {
    let temporary = folder("two");
    // Whoever has it, it is taken.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let demos = [
        Running::start(&[], &temporary),
        Running::start(&[], &temporary),
    ];
    assert_eq!(clusters(&temporary).len(), 2);
    for demo in demos {
        demo.signal(Signal::SIGINT);
        demo.ended();
    }
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    fs::remove_dir(&temporary).unwrap();
}

/// As root the test takes a user for it; anybody else is one.
#[test]
fn an_ordinary_user_can_run_it() {
    let temporary = folder("rootless");
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&temporary, public).unwrap();
    let copy = temporary.join("malla");
    let demo = if Uid::effective().is_root() {
        // The build's folder may be closed to others.
        fs::copy(MALLA, &copy).unwrap();
        let script = format!("exec {} \"$@\"", copy.display());
        let as_user = [
            "setpriv",
            "--reuid=malla-test",
            "--regid=malla-test",
            "--init-groups",
            "sh",
            "-c",
            &script,
        ];
        Running::start(&as_user, &temporary)
    } else {
        Running::start(&[], &temporary)
    };
    demo.signal(Signal::SIGINT);
    demo.ended();
    drop(fs::remove_file(copy));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    fs::remove_dir(&temporary).unwrap();
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let temporary = folder("refused");
    if Uid::effective().is_root() {
        let without = ["setpriv", "--bounding-set", "-sys_admin"];
        let said = refused(&without, &[], &temporary);
        assert!(said.contains("may not make namespaces"), "{said}");
        let full = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs -o size=600k none \"$TMPDIR\" && exec \"$0\" \"$@\"",
        ];
        let said = refused(&full, &[], &temporary);
        assert!(said.contains("is full"), "{said}");
    }
    let said = refused(&[], &["--data", "/proc/nowhere"], &temporary);
    assert!(said.contains("/proc/nowhere"), "{said}");
    fs::remove_dir_all(&temporary).unwrap();
}
