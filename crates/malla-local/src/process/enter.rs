//! A command in a running container: `kubectl exec`, exec probes and hooks.
//!
//! Runs in a fresh child of pid 1 that is already in the container's PID namespace.

use nix::sched::{CloneFlags, setns};

use super::child::{context, execute, fail};
use super::message;
use super::server::RequestFds;
use super::spec::CommandSpec;

/// Enters the container's other namespaces, then becomes the command.
pub(super) fn run(fds: RequestFds) -> ! {
    let entered = setns(
        &fds.place,
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    );
    if let Err(error) = entered {
        fail(&fds, &context("enter the container", error.into()));
    }
    match message::from_memory::<CommandSpec>(&fds.spec) {
        Ok(command) => fail(&fds, &execute(&fds, &command)),
        Err(error) => fail(&fds, &error),
    }
}
