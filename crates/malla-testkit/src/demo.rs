//! A running `malla demo`, started and ended as a user does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Long enough for a busy machine of two cores.
const START: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(30);

/// A demo of one's own; dropping it ends it as Ctrl-C does.
#[derive(Debug)]
pub struct Demo {
    process: Child,
    folder: PathBuf,
    pub ready: Value,
}

impl Demo {
    /// Starts `malla demo` with further arguments and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready, with what it printed.
    #[must_use]
    pub fn start(malla: &Path, name: &str, arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("malla-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("make a folder for the test");
        let ready_file = folder.join("ready.json");
        let log = fs::File::create(folder.join("demo.log")).expect("make a log file");
        let mut process = Command::new(malla)
            .args(["demo", "--data"])
            .arg(folder.join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", malla.display()));
        let started = Instant::now();
        while !ready_file.exists() {
            let ended = process.try_wait().expect("look after the demo");
            let said = || fs::read_to_string(folder.join("demo.log")).unwrap_or_default();
            assert!(ended.is_none(), "the demo ended: {ended:?}\n{}", said());
            if started.elapsed() > START {
                drop(process.kill());
                panic!("the demo was not ready within {START:?}\n{}", said());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = fs::read_to_string(&ready_file).expect("read the ready file");
        let ready = serde_json::from_str(&text).expect("the ready file is JSON");
        Self {
            process,
            folder,
            ready,
        }
    }

    /// The shop's address, without a slash at the end.
    #[must_use]
    pub fn shop(&self) -> String {
        self.ready["shop"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned()
    }

    /// The console's address, without a slash at the end.
    #[must_use]
    pub fn console(&self) -> String {
        self.ready["console"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned()
    }

    #[must_use]
    pub fn kubeconfig(&self) -> &str {
        self.ready["clusters"][0]["kubeconfig"]
            .as_str()
            .unwrap_or_default()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs the real `kubectl` on the demo's cluster.
    ///
    /// # Panics
    /// When there is no `kubectl`.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .expect("kubectl is installed")
    }

    /// What `kubectl` prints.
    ///
    /// # Panics
    /// When it fails, with its message.
    #[must_use]
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {}: {said}",
            arguments.join(" ")
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `kubectl -o json` prints.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[must_use]
    pub fn kubectl_json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl_ok(&arguments)).expect("kubectl prints JSON")
    }

    /// Ends the demo as Ctrl-C does and waits for it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap_or_default());
            kill(pid, Signal::SIGINT).ok();
            let started = Instant::now();
            while let Ok(None) = self.process.try_wait() {
                if started.elapsed() > STOP {
                    drop(self.process.kill());
                    drop(self.process.wait());
                    assert!(
                        std::thread::panicking(),
                        "the demo did not stop within {STOP:?}"
                    );
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("demo.log")).unwrap_or_default();
            print(&format!("the demo said:\n{log}"));
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[allow(clippy::print_stderr)] // a test's own words
fn print(text: &str) {
    eprintln!("{text}");
}
