//! The command line.

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cmd::{
    analyze, console, control, demo, init, local, manifest, proxy, proxy_config, proxy_status,
    validate,
};

/// A service mesh in one binary: Istio's API, Envoy's xDS, its own data plane.
#[derive(Debug, Parser)]
#[command(
    name = "malla",
    version,
    about,
    propagate_version = true,
    after_help = "Start here: malla demo"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Local(local::LocalArgs),
    Control(control::ControlArgs),
    Console(console::ConsoleArgs),
    Proxy(proxy::ProxyArgs),
    #[command(alias = "istio-iptables")]
    Init(init::InitArgs),
    Analyze(analyze::AnalyzeArgs),
    Manifest(manifest::ManifestArgs),
    Validate(validate::ValidateArgs),
    #[command(alias = "ps")]
    ProxyStatus(proxy_status::ProxyStatusArgs),
    #[command(alias = "pc")]
    ProxyConfig(proxy_config::ProxyConfigArgs),
    /// Print a completion script for a shell.
    Completion {
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// The completion script of a shell.
pub(crate) fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "malla", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !["completion", "version", "help"].contains(&c.get_name()))
        {
            let help = command.clone().render_long_help().to_string();
            assert!(
                help.contains("Example"),
                "malla {} --help has no example",
                command.get_name()
            );
        }
    }
}
