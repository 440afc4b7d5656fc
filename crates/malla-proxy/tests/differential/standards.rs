//! What others wrote to check HTTP/2 against its standard: h2spec, which is found by `MALLA_H2SPEC` or on `PATH`.

use std::process::Command;

use crate::certificates::write_certificates;
use crate::lab::Lab;

const CONFIG: &str = include_str!("standards.yaml");

fn check(listener: &str, more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let lab = Lab::start(
        CONFIG,
        &[
            ("backend", crate::backend::start().port().to_string()),
            ("certs", folder.path().display().to_string()),
        ],
    );
    let port = lab.malla.address(listener).port().to_string();
    let program = std::env::var_os("MALLA_H2SPEC").unwrap_or_else(|| "h2spec".into());
    let output = Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &port, "-P", "/echo", "-o", "3"])
        .args(more)
        .output()
        .expect("h2spec is needed: put it on PATH or set MALLA_H2SPEC");
    let text = String::from_utf8_lossy(&output.stdout);
    let failures = text.split_once("Failures:").map(|(_, rest)| rest);
    assert_eq!(failures, None);
    assert!(text.contains("145 passed, 0 skipped, 0 failed"), "{text}");
}

#[test]
fn h2spec_passes() {
    check("plain", &[]);
}

#[test]
fn h2spec_passes_under_tls() {
    check("tls", &["-t", "-k"]);
}
