//! Why a sandbox cannot be made, in one line that says what to do.

use std::io;
use std::path::Path;

use nix::errno::Errno;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "user namespaces are forbidden to ordinary users here ({setting}): run `sudo sysctl -w {fix}`, or run malla as root"
    )]
    UserNamespaces {
        setting: &'static str,
        fix: &'static str,
    },
    #[error(
        "this process may not make namespaces ({0}): run malla as root on the host, or in a container started with --privileged"
    )]
    Namespaces(Errno),
    #[error(
        "{program} is missing, without which an ordinary user cannot map user ids: install the package uidmap (`sudo apt install uidmap`), or run malla as root"
    )]
    NoMapper { program: &'static str },
    #[error(
        "{file} grants user {user} only {have} ids and pods need {need}: run `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`, or run malla as root"
    )]
    NoRange {
        file: &'static str,
        user: String,
        have: u32,
        need: u32,
    },
    #[error("{program} failed: {message}")]
    Mapping {
        program: &'static str,
        message: String,
    },
    #[error("{0}")]
    Inside(String),
    #[error("the sandbox's helper ended while starting")]
    Died,
    #[error("a sandbox must be started before there are threads; there are {0}")]
    Threads(usize),
    #[error("start the sandbox: {0}")]
    Io(#[source] io::Error),
}

impl From<Errno> for SandboxError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// The switches of known kernels that forbid user namespaces: file, forbidding value, words.
const SWITCHES: [(&str, &str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone = 0",
        "kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns = 1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user.max_user_namespaces = 0",
        "user.max_user_namespaces=10000",
    ),
];

/// Puts a refused `unshare` or `mount` into words.
pub(super) fn explain(errno: Errno) -> SandboxError {
    if !matches!(
        errno,
        Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EUSERS
    ) {
        return errno.into();
    }
    forbidding_switch(|path| std::fs::read_to_string(Path::new(path)).ok())
        .unwrap_or(SandboxError::Namespaces(errno))
}

fn forbidding_switch(read: impl Fn(&str) -> Option<String>) -> Option<SandboxError> {
    SWITCHES
        .iter()
        .find(|(path, forbids, ..)| read(path).is_some_and(|value| value.trim() == *forbids))
        .map(|(_, _, setting, fix)| SandboxError::UserNamespaces { setting, fix })
}

#[cfg(test)]
mod tests {
    use super::forbidding_switch;

    fn check(file: &str, value: &str, wanted: Option<&str>) {
        let error = forbidding_switch(|path| path.ends_with(file).then(|| value.to_owned()));
        let text = error.map(|error| error.to_string());
        assert_eq!(
            text.as_deref().and_then(|text| text.split('`').nth(1)),
            wanted,
            "{file} = {value}"
        );
    }

    #[test]
    fn the_switch_that_forbids_is_named_with_its_cure() {
        check(
            "unprivileged_userns_clone",
            "0\n",
            Some("sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        );
        check(
            "apparmor_restrict_unprivileged_userns",
            "1\n",
            Some("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        );
        check(
            "max_user_namespaces",
            "0\n",
            Some("sudo sysctl -w user.max_user_namespaces=10000"),
        );
        check("max_user_namespaces", "96365\n", None);
    }
}
