//! The `malla` binary: reads the command line and the environment, wires the crates, nothing else.

mod allocator;
mod cli;
mod cmd;
mod demo;
mod output;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::output::Output;

fn main() -> ExitCode {
    let mut out = Output::new();
    let result = match Cli::parse().command {
        Command::Demo(args) => cmd::demo::run(args, &mut out),
        Command::Local(args) => cmd::local::run(args, &mut out),
        Command::Control(args) => cmd::control::run(args),
        Command::Console(args) => cmd::console::run(args),
        Command::Proxy(args) => cmd::proxy::run(args, &mut out),
        Command::Init(args) => cmd::init::run(args, &mut out).map(|()| ExitCode::SUCCESS),
        Command::Analyze(args) => cmd::analyze::run(args, &mut out),
        Command::Manifest(args) => cmd::manifest::run(args, &mut out),
        Command::Validate(args) => cmd::validate::run(&args, &mut out),
        Command::ProxyStatus(args) => cmd::proxy_status::run(&args, &mut out),
        Command::ProxyConfig(args) => cmd::proxy_config::run(&args, &mut out),
        Command::Completion { shell } => {
            out.text(&cli::completion(shell));
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            out.text(&format!("malla {}\n", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        out.error(&error);
        ExitCode::FAILURE
    })
}
