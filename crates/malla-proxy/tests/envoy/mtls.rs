//! Identities: what is forwarded of a client's certificate, what policies make of it, what logs say of it.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::backend;
use crate::lab::{Lab, show};
use crate::wire::{comparable, exchange, exchange_tls, mask};

const CONFIG: &str = include_str!("mtls.yaml");

/// A CA, a server and two clients: one with URI and DNS names, one with a subject alone.
fn write_certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test mesh");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    for (name, names) in [
        (
            "server",
            vec![uri("server"), dns("server.test"), dns("x.bad.test")],
        ),
        (
            "client",
            vec![uri("client"), dns("client.test"), dns("other.test")],
        ),
        ("bare", vec![]),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Test, \"Inc\"");
        params.subject_alt_names = names;
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn uri(account: &str) -> SanType {
    SanType::URI(
        format!("spiffe://cluster.local/ns/base/sa/{account}")
            .try_into()
            .unwrap(),
    )
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn client(folder: &Path, name: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem")).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            builder
                .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                .unwrap()
        }
    })
}

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
        let config = client(folder.path(), identity);
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
