//! OpenSSL as the peer: it reads and verifies what the authority issues, and takes part in the
//! handshake.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use malla_identity::authority::Authority;
use malla_identity::pem;
use malla_identity::source::CertSource;
use malla_identity::tls::grpc::{AcceptLimits, incoming};
use malla_identity::tls::{ClientAuth, ServerOptions, server_config};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;

use crate::support::{DAY, authority, bundle, cart, certify, provider, workload};

/// A Secret's data.
type Secret = BTreeMap<String, Vec<u8>>;

fn openssl(folder: &Path, arguments: &[&str]) -> Output {
    let program = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output();
    program.expect("openssl is installed")
}

#[track_caller]
fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let done = openssl(folder, arguments);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    text
}

#[test]
fn openssl_verifies_what_the_authority_issues() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let credential = certify(&authority, &cart(), DAY, SystemTime::now());
    std::fs::write(folder.path().join("root.pem"), authority.roots_pem()).unwrap();
    std::fs::write(folder.path().join("leaf.pem"), credential.chain_pem()).unwrap();
    for purpose in ["sslserver", "sslclient"] {
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "root.pem",
            "leaf.pem",
        ];
        succeed(folder.path(), &arguments);
    }
    let text = succeed(
        folder.path(),
        &["x509", "-in", "leaf.pem", "-noout", "-text"],
    );
    for part in [
        "X509v3 Subject Alternative Name: critical",
        "URI:spiffe://cluster.local/ns/base/sa/cart",
        "CA:FALSE",
        "Digital Signature, Key Encipherment",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "Public-Key: (256 bit)",
    ] {
        assert!(text.contains(part), "{part} is missing from {text}");
    }
    let text = succeed(
        folder.path(),
        &["x509", "-in", "root.pem", "-noout", "-text"],
    );
    for part in ["CA:TRUE", "Certificate Sign, CRL Sign", "O = cluster.local"] {
        assert!(text.contains(part), "{part} is missing from {text}");
    }
}

/// An operator's own hierarchy, made with openssl as Istio's documentation does: root, intermediate,
/// Secret `cacerts`.
fn plugged_in(folder: &Path, algorithm: &[&str]) -> Secret {
    let extensions = "[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    std::fs::write(folder.join("ca.cnf"), extensions).unwrap();
    for name in ["root", "ca"] {
        let key = format!("{name}-key.pem");
        let mut arguments = vec!["genpkey", "-out", &key];
        arguments.extend(algorithm);
        succeed(folder, &arguments);
        let (request, subject) = (format!("{name}.csr"), format!("/O=Istio/CN={name}"));
        succeed(
            folder,
            &[
                "req", "-new", "-key", &key, "-out", &request, "-subj", &subject,
            ],
        );
    }
    let extended = ["-extfile", "ca.cnf", "-extensions", "ca", "-days", "30"];
    let root = [
        "x509",
        "-req",
        "-in",
        "root.csr",
        "-signkey",
        "root-key.pem",
        "-out",
        "root-cert.pem",
    ];
    succeed(folder, &[&root[..], &extended].concat());
    let ca = [
        "x509",
        "-req",
        "-in",
        "ca.csr",
        "-CA",
        "root-cert.pem",
        "-CAkey",
        "root-key.pem",
        "-CAcreateserial",
        "-out",
        "ca-cert.pem",
    ];
    succeed(folder, &[&ca[..], &extended].concat());
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let chain = [read("ca-cert.pem"), read("root-cert.pem")].concat();
    BTreeMap::from([
        ("ca-cert.pem".to_owned(), read("ca-cert.pem")),
        ("ca-key.pem".to_owned(), read("ca-key.pem")),
        ("root-cert.pem".to_owned(), read("root-cert.pem")),
        ("cert-chain.pem".to_owned(), chain),
    ])
}

#[test]
fn a_plugged_in_authority_signs_under_the_operators_root() {
    for algorithm in [
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..],
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let data = plugged_in(folder.path(), algorithm);
        let authority = Authority::from_secret("cacerts", &data).unwrap();
        assert!(!authority.is_self_signed());
        let credential = certify(&authority, &cart(), DAY, SystemTime::now());
        assert_eq!(
            credential.chain().len(),
            2,
            "leaf and intermediate, without the root"
        );
        let leaf = pem::encode_certificates(&credential.chain()[..1]);
        let above = pem::encode_certificates(&credential.chain()[1..]);
        std::fs::write(folder.path().join("leaf.pem"), leaf).unwrap();
        std::fs::write(folder.path().join("above.pem"), above).unwrap();
        let arguments = [
            "verify",
            "-CAfile",
            "root-cert.pem",
            "-untrusted",
            "above.pem",
            "leaf.pem",
        ];
        succeed(folder.path(), &arguments);
    }
}

#[test]
fn secrets_that_do_not_fit_together_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let good = plugged_in(
        folder.path(),
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    );
    let check = |change: &dyn Fn(&mut Secret), expected: &str| {
        let mut data = good.clone();
        change(&mut data);
        let error = Authority::from_secret("cacerts", &data)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    let stranger = authority();
    check(
        &|data| drop(data.remove("ca-key.pem")),
        "Secret cacerts, key ca-key.pem holds no private key",
    );
    check(
        &|data| drop(data.insert("ca-cert.pem".into(), b"?".to_vec())),
        "key ca-cert.pem holds no certificate",
    );
    check(
        &|data| {
            drop(data.insert(
                "ca-key.pem".into(),
                stranger.to_secret()["ca-key.pem"].clone(),
            ))
        },
        "does not belong to the certificate",
    );
    check(
        &|data| drop(data.insert("root-cert.pem".into(), stranger.roots_pem().into_bytes())),
        "does not lead to its root",
    );
    let leaf = certify(&stranger, &cart(), DAY, SystemTime::now());
    check(
        &|data| {
            data.insert("ca-cert.pem".into(), leaf.chain_pem().into_bytes());
            data.insert("ca-key.pem".into(), leaf.key_pem().into_bytes());
        },
        "cannot sign others",
    );
}

#[test]
fn a_self_signed_authority_survives_its_secret_and_its_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let first = authority();
    let again = Authority::from_secret("istio-ca-secret", &first.to_secret()).unwrap();
    assert!(again.is_self_signed());
    assert_eq!(again.roots(), first.roots());
    assert!(!first.should_renew(SystemTime::now()));
    let later = SystemTime::now() + DAY * 3000;
    assert!(first.should_renew(later));
    // Who has the old root trusts what the renewed authority issues.
    let renewed = again.renewed(SystemTime::now()).unwrap();
    assert_ne!(renewed.roots(), first.roots());
    let credential = certify(&renewed, &cart(), DAY, SystemTime::now());
    std::fs::write(folder.path().join("root.pem"), first.roots_pem()).unwrap();
    std::fs::write(folder.path().join("leaf.pem"), credential.chain_pem()).unwrap();
    succeed(
        folder.path(),
        &["verify", "-CAfile", "root.pem", "leaf.pem"],
    );
}

#[tokio::test]
async fn openssl_is_let_in_with_a_certificate_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let source: CertSource = workload(&authority, &cart());
    let options = ServerOptions::new(ClientAuth::Required, &[b"istio"]);
    let config = server_config(&source, options, &provider()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut accepted = incoming(listener, Some(Arc::new(config)), AcceptLimits::default());

    let caller = certify(&authority, &cart(), DAY, SystemTime::now());
    std::fs::write(folder.path().join("root.pem"), authority.roots_pem()).unwrap();
    std::fs::write(folder.path().join("cert.pem"), caller.chain_pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), caller.key_pem()).unwrap();
    assert!(!bundle(&authority).is_empty());
    let call = |arguments: Vec<&'static str>| {
        let (folder, address) = (folder.path().to_owned(), address.clone());
        tokio::task::spawn_blocking(move || {
            let base = [
                "s_client",
                "-connect",
                &address,
                "-CAfile",
                "root.pem",
                "-verify_return_error",
                "-alpn",
                "istio",
            ];
            let done = openssl(&folder, &[&base[..], &arguments].concat());
            String::from_utf8_lossy(&done.stdout).into_owned()
        })
    };
    let text = call(vec!["-cert", "cert.pem", "-key", "key.pem"])
        .await
        .unwrap();
    assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
    assert!(text.contains("ALPN protocol: istio"), "{text}");
    let connection = accepted.next().await.unwrap().unwrap();
    let peer = tonic::transport::server::Connected::connect_info(&connection);
    assert_eq!(peer.identity(), Some(&cart()));

    call(vec![]).await.unwrap();
    call(vec!["-cert", "cert.pem", "-key", "key.pem"])
        .await
        .unwrap();
    let next = accepted.next().await.unwrap().unwrap();
    let peer = tonic::transport::server::Connected::connect_info(&next);
    assert!(
        peer.identity().is_some(),
        "the naked call must not have come through"
    );
}
