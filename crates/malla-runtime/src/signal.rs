//! SIGTERM and SIGINT as a value to await.
//!
//! The handlers are in place when [`ShutdownSignals::listen`] returns, so a signal that arrives
//! during start-up is not lost.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which signal asked the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM: the platform takes us down.
    Terminate,
    /// SIGINT: a person pressed Ctrl-C.
    Interrupt,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// Receives the signals that end a process. A second signal during a drain usually means "now".
#[derive(Debug)]
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    /// # Errors
    /// When the handlers cannot be installed, or outside a tokio runtime with signals enabled.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal; cancel-safe.
    pub async fn recv(&mut self) -> Cause {
        tokio::select! {
            biased; // Both at once: the platform's word counts.
            _ = self.terminate.recv() => Cause::Terminate,
            _ = self.interrupt.recv() => Cause::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Number, kill};
    use nix::unistd::Pid;

    #[tokio::test]
    async fn a_signal_sent_before_the_wait_is_seen() {
        let mut signals = ShutdownSignals::listen().unwrap();
        kill(Pid::this(), Number::SIGTERM).unwrap();
        assert_eq!(signals.recv().await, Cause::Terminate);
        kill(Pid::this(), Number::SIGINT).unwrap();
        assert_eq!(signals.recv().await, Cause::Interrupt);
    }
}
