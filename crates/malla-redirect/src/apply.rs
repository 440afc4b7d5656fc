//! Loads rule sets with the tool that works here: nftables first, iptables otherwise.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::iptables::{self, Family};
use crate::nft;
use crate::plan::{Mode, Plan};

/// What loads the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Nft,
    Iptables,
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        })
    }
}

/// Why rules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("neither nft nor iptables works here (install the package nftables): {0}")]
    NoTool(String),
    #[error(
        "{program} refused the rules: {message} (capturing traffic needs the capability NET_ADMIN in the pod's network namespace)"
    )]
    Refused { program: String, message: String },
    #[error("interception mode TPROXY needs nft (install the package nftables)")]
    Tproxy,
    #[error("{program} could not be run")]
    Spawn {
        program: String,
        #[source]
        source: std::io::Error,
    },
}

/// Finds a tool that can read the kernel's rules.
///
/// # Errors
/// When none can, with what each said.
pub fn detect() -> Result<Tool, Error> {
    let nft = run("nft", &["list", "tables"], "");
    if nft.is_ok() {
        return Ok(Tool::Nft);
    }
    let iptables = run("iptables", &["-t", "nat", "-S"], "");
    if iptables.is_ok() {
        return Ok(Tool::Iptables);
    }
    let said = [nft, iptables]
        .into_iter()
        .filter_map(Result::err)
        .map(|e| describe(&e))
        .collect::<Vec<_>>();
    Err(Error::NoTool(said.join("; ")))
}

/// Makes the rules of this network namespace those of the plan.
///
/// # Errors
/// When the tool refuses them or cannot be run.
pub fn apply(plan: &Plan, tool: Tool) -> Result<(), Error> {
    if let Mode::Tproxy { mark, table } = plan.mode {
        if tool != Tool::Nft {
            return Err(Error::Tproxy);
        }
        for call in routes(mark, table) {
            let call: Vec<&str> = call.iter().map(String::as_str).collect();
            match run("ip", &call, "") {
                // There already, from an earlier run.
                Err(Error::Refused { message, .. }) if message.contains("File exists") => {}
                other => other?,
            }
        }
    }
    match tool {
        Tool::Nft => run("nft", &["-f", "-"], &nft::rules(plan)),
        Tool::Iptables => {
            cleanup(tool)?;
            run(
                "iptables-restore",
                &["--noflush"],
                &iptables::rules(plan, Family::V4),
            )?;
            if has_ipv6() {
                run(
                    "ip6tables-restore",
                    &["--noflush"],
                    &iptables::rules(plan, Family::V6),
                )?;
            }
            Ok(())
        }
    }
}

/// Removes the rules, whether or not they are there.
///
/// # Errors
/// When nft refuses or cannot be run; iptables has no way to tell absence from refusal.
pub fn cleanup(tool: Tool) -> Result<(), Error> {
    match tool {
        Tool::Nft => run("nft", &["-f", "-"], &nft::cleanup()),
        Tool::Iptables => {
            let families: &[&str] = if has_ipv6() {
                &["iptables", "ip6tables"]
            } else {
                &["iptables"]
            };
            for program in families {
                for call in iptables::cleanup() {
                    match run(program, &call, "") {
                        Ok(()) | Err(Error::Refused { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(())
        }
    }
}

/// Calls of `ip` that make every destination local for packets with the mark.
fn routes(mark: u32, table: u32) -> Vec<Vec<String>> {
    let families: &[&str] = if has_ipv6() { &["-4", "-6"] } else { &["-4"] };
    let calls = families.iter().flat_map(|family| {
        [
            format!("{family} rule add fwmark {mark} lookup {table}"),
            format!("{family} route add local default dev lo table {table}"),
        ]
    });
    let words = |call: String| call.split(' ').map(str::to_owned).collect();
    calls.map(words).collect()
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn describe(error: &Error) -> String {
    match error {
        Error::Spawn { program, source } => format!("{program}: {source}"),
        Error::Refused { program, message } => format!("{program}: {message}"),
        Error::NoTool(_) | Error::Tproxy => error.to_string(),
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), Error> {
    let spawn = |source| Error::Spawn {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses early closes its end; its exit status and message say why.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output().map_err(spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused {
        program: program.to_owned(),
        message,
    })
}
