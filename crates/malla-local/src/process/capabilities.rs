//! Linux capabilities by name, and the usual set of containers.

use serde::{Deserialize, Serialize};

/// Names in the order of linux/capability.h, without the `CAP_` prefix.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd and Docker give a container that asks for nothing.
const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The default of container runtimes.
    pub fn usual() -> Self {
        USUAL
            .iter()
            .filter_map(|name| Self::named(name))
            .fold(Self::NONE, Self::with)
    }

    /// One capability, as in `securityContext.capabilities` (`NET_ADMIN`, also `CAP_NET_ADMIN`),
    /// or `ALL`.
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            return Some(Self::ALL);
        }
        let bit = NAMES.iter().position(|known| *known == bare)?;
        Some(Self(1 << bit))
    }

    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn mask(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Capabilities;

    #[test]
    fn names_are_taken_as_kubernetes_and_as_linux_write_them() {
        let admin = Capabilities::named("NET_ADMIN").unwrap();
        assert_eq!(admin.mask(), 1 << 12);
        assert_eq!(Capabilities::named("cap_net_admin"), Some(admin));
        assert_eq!(Capabilities::named("NET_ADMINISTRATOR"), None);
    }

    #[test]
    fn all_but_the_usual_is_left_after_dropping() {
        // Docker documents its default mask as 0xa80425fb.
        assert_eq!(Capabilities::usual().mask(), 0xa804_25fb);
        let left = Capabilities::usual().without(Capabilities::ALL);
        assert_eq!(left, Capabilities::NONE);
    }
}
