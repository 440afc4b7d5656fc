//! The Envoy process: starting it, asking it, draining it, ending it.

pub mod admin;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// How Envoy is run.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    /// Worker threads; all cores without.
    pub concurrency: Option<u32>,
    /// `warning`, or `warning,rbac:debug` as `--component-log-level` has it after the comma.
    pub log_level: String,
}

/// A running Envoy, killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
}

impl Program {
    /// Starts Envoy on the bootstrap file.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start(&self, bootstrap: &Path) -> io::Result<Envoy> {
        let (level, components) = match self.log_level.split_once(',') {
            Some((level, components)) => (level, Some(components)),
            None => (&*self.log_level, None),
        };
        let mut command = Command::new(&self.path);
        command.arg("-c").arg(bootstrap);
        // Restarts are new pods, so the shared memory of hot restarts would only be in the way.
        command.args(["--disable-hot-restart", "--log-level", level]);
        command.args(["--drain-time-s", "45", "--drain-strategy", "immediate"]);
        command.args(["--file-flush-interval-msec", "1000"]);
        if let Some(components) = components {
            command.args(["--component-log-level", components]);
        }
        if let Some(workers) = self.concurrency {
            command.args(["--concurrency", &workers.to_string()]);
        }
        let child = command.kill_on_drop(true).spawn()?;
        Ok(Envoy { child })
    }
}

impl Envoy {
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end; cancel-safe.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it: SIGTERM, then SIGKILL.
    ///
    /// # Errors
    /// When the system cannot tell how it ended.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.child.id() {
            terminate(pid)?;
        }
        match tokio::time::timeout(TERM_GRACE, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.child.start_kill()?;
                self.child.wait().await
            }
        }
    }
}

/// A process that has just ended is fine.
fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    match kill(Pid::from_raw(pid), Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
