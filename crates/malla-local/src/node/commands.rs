//! Commands in running containers: exec probes, hooks and `kubectl exec`.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::{AsyncRead, AsyncReadExt, Take};
use tokio::net::unix::pipe;

use super::container::Running;
use crate::process::{CommandSpec, Process, RunError, Spawner, Stdio, Terminal};

/// Of a probe's or hook's output only so much is kept (the kubelet's limit).
const MOST_OUTPUT: u64 = 10 * 1024;
/// How long after a command's end its last output is waited for.
const OUTPUT_END: Duration = Duration::from_millis(100);

/// A command in a container, and the node's ends of its streams.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) process: Process,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) terminal: Option<Terminal>,
}

/// Starts `argv` beside the main command of `running`, as the same user and with its environment.
pub(super) async fn enter(
    spawner: &Spawner,
    running: &Running,
    argv: &[String],
    stdin: bool,
    terminal: bool,
) -> Result<Entered, RunError> {
    let pair = || -> io::Result<(OwnedFd, OwnedFd)> { Ok(pipe2(OFlag::O_CLOEXEC)?) };
    let (out, their_out) = pair()?;
    let (err, their_err) = pair()?;
    let (their_in, ours_in) = if stdin && !terminal {
        let (theirs, ours) = pair()?;
        (theirs, Some(pipe::Sender::from_owned_fd(ours)?))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let mut command = CommandSpec {
        argv: argv.to_vec(),
        terminal,
        ..running.command.clone()
    };
    if terminal && !command.env.iter().any(|(name, _)| name == "TERM") {
        command.env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let stdio = Stdio {
        stdin: their_in,
        stdout: their_out,
        stderr: their_err,
    };
    let mut process = spawner.exec(&command, stdio, &running.process).await?;
    let terminal = process.terminal.take().map(Terminal::new).transpose()?;
    Ok(Entered {
        process,
        stdin: ours_in,
        stdout: pipe::Receiver::from_owned_fd(out)?,
        stderr: pipe::Receiver::from_owned_fd(err)?,
        terminal,
    })
}

/// Runs `argv` to its end; an error says how it failed. Dropping the future kills the command.
pub(super) async fn run(
    spawner: &Spawner,
    running: &Running,
    argv: &[String],
) -> Result<(), String> {
    let entered = enter(spawner, running, argv, false, false).await;
    let entered = entered.map_err(|error| error.to_string())?;
    let mut output = Vec::new();
    let mut both = entered.stdout.chain(entered.stderr).take(MOST_OUTPUT);
    // The command's end decides; a child it left behind may hold the pipes.
    let status = tokio::select! {
        status = entered.process.wait() => status,
        never = drain(&mut both, &mut output) => match never {},
    };
    let _what_is_left = tokio::time::timeout(OUTPUT_END, both.read_to_end(&mut output)).await;
    match status.code() {
        0 => Ok(()),
        code => {
            let text = String::from_utf8_lossy(&output);
            Err(format!("command exited with code {code}: {}", text.trim()))
        }
    }
}

/// Keeps the first output, and takes the rest so that it does not block the command.
async fn drain<R: AsyncRead + Unpin>(source: &mut Take<R>, kept: &mut Vec<u8>) -> Infallible {
    let _broken = source.read_to_end(kept).await;
    let _broken = tokio::io::copy(source.get_mut(), &mut tokio::io::sink()).await;
    std::future::pending().await
}
