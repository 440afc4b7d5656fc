//! Certificates of one test's: a CA, `server`, and the clients `client`, `rich` and `bare`.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, OtherNameValue,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A CA, a server and two clients: one with URI and DNS names, one with a subject alone.
pub(crate) fn write_certificates(folder: &Path) {
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
        ("rich", rich()),
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
        let mut chain = certificate.pem();
        if name == "rich" {
            chain.push_str(&issuer.pem());
        }
        std::fs::write(folder.join(format!("{name}.pem")), chain).unwrap();
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

/// Names of every kind that logs tell.
fn rich() -> Vec<SanType> {
    let other = OtherNameValue::Utf8String("rich@realm".to_owned());
    vec![
        uri("rich"),
        uri("second"),
        dns("rich.test"),
        SanType::IpAddress("127.0.0.9".parse().unwrap()),
        SanType::IpAddress("::1".parse().unwrap()),
        SanType::Rfc822Name("rich@mail.test".try_into().unwrap()),
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], other)),
    ]
}

/// A client that trusts the CA, with the certificate of that name.
pub(crate) fn client(folder: &Path, name: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem")).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            builder
                .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                .unwrap()
        }
    }
}
