//! User and group ids of a rootless sandbox: the user becomes root, pods' users come from the
//! ranges of /etc/subuid and /etc/subgid.
//!
//! Invariant: ids 0..65536 are mapped without holes, so that any `runAsUser` of a usual image works.

use std::io;
use std::process::Command;

use nix::unistd::{Gid, Pid, Uid, User};

use super::SandboxError;

/// Ids besides root that pods may use: up to and with 65535 ("nobody" is 65534).
const NEEDED: u32 = 65535;

/// What newuidmap and newgidmap are to write.
#[derive(Debug)]
pub(super) struct IdentityMaps {
    uids: Map,
    gids: Map,
}

#[derive(Debug)]
struct Map {
    program: &'static str,
    own: u32,
    ranges: Vec<(u32, u32)>,
}

impl IdentityMaps {
    /// Reads the ranges granted to the user who runs this.
    pub(super) fn of_this_user() -> Result<Self, SandboxError> {
        let uid = Uid::effective();
        let name = User::from_uid(uid)
            .ok()
            .flatten()
            .map_or_else(|| uid.to_string(), |user| user.name);
        let map = |program, file, own| -> Result<Map, SandboxError> {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let granted = granted(&text, &name, uid.as_raw());
            match enough(&granted) {
                Ok(ranges) => Ok(Map {
                    program,
                    own,
                    ranges,
                }),
                Err(have) => Err(SandboxError::NoRange {
                    file,
                    user: name.clone(),
                    have,
                    need: NEEDED,
                }),
            }
        };
        Ok(Self {
            uids: map("newuidmap", "/etc/subuid", uid.as_raw())?,
            gids: map("newgidmap", "/etc/subgid", Gid::effective().as_raw())?,
        })
    }

    /// Maps the ids of the user namespace that process `target` just made.
    pub(super) fn apply(&self, target: Pid) -> Result<(), SandboxError> {
        self.uids.apply(target)?;
        self.gids.apply(target)
    }
}

impl Map {
    fn apply(&self, target: Pid) -> Result<(), SandboxError> {
        let program = self.program;
        let output = match Command::new(program).args(self.arguments(target)).output() {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SandboxError::NoMapper { program });
            }
            Err(error) => return Err(SandboxError::Io(error)),
        };
        if output.status.success() {
            return Ok(());
        }
        Err(SandboxError::Mapping {
            program,
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn arguments(&self, target: Pid) -> Vec<String> {
        let mut arguments = vec![target.to_string()];
        let mut add = |inside: u32, outside: u32, count: u32| {
            arguments.extend([inside, outside, count].map(|number| number.to_string()));
        };
        add(0, self.own, 1);
        let mut inside = 1;
        for (start, count) in &self.ranges {
            add(inside, *start, *count);
            inside += count;
        }
        arguments
    }
}

/// The ranges `(start, count)` of a subuid(5) file that belong to a user.
fn granted(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (owner == name || owner == uid.to_string()).then_some(range)
        })
        .collect()
}

/// As much of the ranges as is needed, or how much there is.
fn enough(granted: &[(u32, u32)]) -> Result<Vec<(u32, u32)>, u32> {
    let mut left = NEEDED;
    let mut ranges = Vec::new();
    for (start, count) in granted {
        let taken = left.min(*count);
        if taken > 0 {
            ranges.push((*start, taken));
            left -= taken;
        }
    }
    if left == 0 {
        Ok(ranges)
    } else {
        Err(NEEDED - left)
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::{Map, enough, granted};

    #[test]
    fn several_ranges_make_one_without_holes() {
        let text = "root:1:1\nada:100000:60000\n# x\nada:300000:65536\n1000:5:5\n";
        let ranges = enough(&granted(text, "ada", 1000)).unwrap();
        assert_eq!(ranges, [(100_000, 60000), (300_000, 5535)]);
        let map = Map {
            program: "newuidmap",
            own: 1000,
            ranges,
        };
        assert_eq!(
            map.arguments(Pid::from_raw(7)).join(" "),
            "7 0 1000 1 1 100000 60000 60001 300000 5535"
        );
    }

    #[test]
    fn too_short_a_range_is_refused_with_its_length() {
        assert_eq!(enough(&granted("ada:1:10\n", "ada", 1)), Err(10));
        assert_eq!(enough(&granted("", "ada", 1)), Err(0));
    }
}
