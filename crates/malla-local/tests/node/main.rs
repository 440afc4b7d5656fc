//! The node against the real kernel: namespaces, mounts, rules, processes.
//!
//! Each test runs in a sandbox of its own, as root or as an ordinary user; one that cannot be made
//! fails the test. `cargo test -p malla-local --test node -- FILTER` runs some of them.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program of its own"
)]

mod controllers;
mod health;
mod launcher;
mod network;
mod pods;
mod processes;
mod services;
mod support;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, argument, state] = arguments.as_slice()
        && argument == launcher::ARGUMENT
    {
        if let Err(error) = launcher::launch(state.as_ref()) {
            eprintln!("{error:?}");
        }
        return ExitCode::FAILURE;
    }
    if arguments
        .get(1)
        .is_some_and(|argument| argument == health::ARGUMENT)
    {
        if let Err(error) = health::serve() {
            eprintln!("{error:?}");
        }
        return ExitCode::FAILURE;
    }
    let mut tests = support::Tests::from_arguments(std::env::args().skip(1));
    processes::all(&mut tests);
    network::all(&mut tests);
    services::all(&mut tests);
    pods::all(&mut tests);
    controllers::all(&mut tests);
    launcher::all(&mut tests);
    tests.finish()
}
