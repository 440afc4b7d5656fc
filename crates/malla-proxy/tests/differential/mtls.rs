//! Identities: what is forwarded of a client's certificate, what policies make of it, what logs say of it.

use std::sync::Arc;

use crate::backend;
use crate::certificates::{client, write_certificates};
use crate::lab::{Lab, show};
use crate::wire::{comparable, exchange, exchange_tls, mask};

const CONFIG: &str = include_str!("mtls.yaml");

fn check(mode: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let lab = Lab::start(
        CONFIG,
        &[
            ("backend", backend::start().port().to_string()),
            ("certs", folder.path().display().to_string()),
            ("mode", mode.to_owned()),
        ],
    );
    let paths = [
        "/echo",
        "/secret",
        "/somebody",
        "/client",
        "/dns",
        "/subject",
        "/local",
        "/nothing",
    ];
    let mut count = 0;
    let mut failures = Vec::new();
    for (identity, name) in [
        (Some("client"), "server.test"),
        (Some("bare"), "server.test"),
        (None, "server.test"),
        (Some("client"), "x.bad.test"),
    ] {
        let config = Arc::new(client(folder.path(), identity));
        for path in paths {
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.1.2.3\r\nx-forwarded-client-cert: By=forged\r\n\r\n"
            );
            let [envoy, malla] = [&lab.envoy, &lab.malla].map(|side| {
                show(&comparable(exchange_tls(
                    side.address("append"),
                    &config,
                    name,
                    &request,
                )))
            });
            count += 1;
            if envoy != malla {
                failures.push(format!(
                    "{mode} {identity:?} {name} {path}\n--- Envoy\n{envoy}--- Malla\n{malla}"
                ));
            }
        }
    }
    for path in paths {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: By=forged\r\n\r\n");
        let [envoy, malla] = [&lab.envoy, &lab.malla]
            .map(|side| show(&comparable(exchange(side.address("append"), &request))));
        count += 1;
        if envoy != malla {
            failures.push(format!(
                "{mode} in plain text {path}\n--- Envoy\n{envoy}--- Malla\n{malla}"
            ));
        }
    }
    let (envoy, malla) = (lab.envoy.lines(count), lab.malla.lines(count));
    for (left, right) in envoy
        .iter()
        .zip(&malla)
        .filter(|(left, right)| mask(left) != mask(right))
    {
        failures.push(format!("envoy {left}\nmalla {right}"));
    }
    assert_eq!((envoy.len(), malla.len()), (count, count));
    assert!(
        failures.is_empty(),
        "{} differences\n{}",
        failures.len(),
        failures.join("\n=========\n")
    );
}

#[test]
fn certificates_are_appended_as_in_envoy() {
    check("APPEND_FORWARD");
}

#[test]
fn certificates_are_set_as_in_envoy() {
    check("SANITIZE_SET");
}

#[test]
fn certificates_are_passed_as_in_envoy() {
    check("FORWARD_ONLY");
}
