//! Certificates, requests for them, and the names in them.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use malla_identity::authority::Authority;
use malla_identity::bundle::TrustBundle;
use malla_identity::credential::Credential;
use malla_identity::csr::Request;
use malla_identity::key::PrivateKey;
use malla_identity::verify::{PeerNames, Usage, verify};
use malla_identity::{default_provider, pem};
use malla_model::{Host, Protocol, SpiffeId, TrustDomain};
use malla_proxy::tls::peer;
use rustls_pki_types::CertificateDer;

use crate::input::Input;

/// Some moment at which sample certificates are valid.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// PEM, or DER after a first byte of 0, as a peer's chain, our own credential, a bundle and a revocation list.
pub fn certificates(data: &[u8]) {
    let wrapped;
    let text = match data.split_first() {
        Some((0, der)) => {
            wrapped = pem::encode("CERTIFICATE", der).into_bytes();
            &wrapped
        }
        Some((1, der)) => {
            wrapped = pem::encode("X509 CRL", der).into_bytes();
            &wrapped
        }
        Some((2, der)) => {
            wrapped = pem::encode("PRIVATE KEY", der).into_bytes();
            &wrapped
        }
        _ => data,
    };
    let provider = default_provider();
    if let Ok(key) = PrivateKey::from_pem("fuzz", text) {
        let again =
            PrivateKey::from_pem("fuzz", key.to_pem().as_bytes()).expect("what we print we read");
        assert_eq!(again.public_key(), key.public_key());
    }
    let _ = TrustBundle::empty().revoking("fuzz", text);
    let _ = Credential::from_pem(text, text, &provider);
    let _ = Authority::from_secret("fuzz", &secret(text));
    let Ok(chain) = pem::certificates("fuzz", text) else {
        return;
    };
    let printed = pem::encode_certificates(&chain);
    assert_eq!(
        pem::certificates("fuzz", printed.as_bytes()).as_ref(),
        Ok(&chain),
        "what we print we read"
    );
    if let Some(leaf) = chain.first() {
        let names = PeerNames::from_certificate(leaf);
        let shown = peer::certificate(&chain);
        if let (Ok(names), Some(shown)) = (&names, &shown) {
            assert_eq!(*names.subject, *shown.subject, "one reader of names");
        }
        if let Ok(names) = names {
            let _ = names.to_string();
        }
    }
    let bundle = TrustBundle::from_pem("fuzz", text).unwrap_or_else(|_| TrustBundle::empty());
    let algorithms = provider.signature_verification_algorithms;
    for usage in [Usage::Client, Usage::Server] {
        let _ = verify(&bundle, &chain, usage, now(), &algorithms);
    }
}

fn secret(text: &[u8]) -> BTreeMap<String, Vec<u8>> {
    [
        "ca-cert.pem",
        "ca-key.pem",
        "root-cert.pem",
        "cert-chain.pem",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), text.to_vec()))
    .collect()
}

/// A certificate request, PEM or DER: if it is taken, the certificate names the caller and nobody else.
pub fn csr(data: &[u8]) {
    static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
        Authority::self_signed("cluster.local", now()).expect("an authority can be made")
    });
    let wrapped;
    let text = match data.split_first() {
        Some((0, der)) => {
            wrapped = pem::encode("CERTIFICATE REQUEST", der).into_bytes();
            &wrapped
        }
        _ => data,
    };
    let Ok(request) = Request::from_pem(text) else {
        return;
    };
    let caller = SpiffeId::new(&TrustDomain::default(), "a", "b");
    let chain = AUTHORITY.certify(&request, &caller, Duration::from_secs(3600), now());
    let Ok(chain) = chain else { return };
    let leaf: &CertificateDer<'_> = chain.first().expect("a chain has a leaf");
    let names = PeerNames::from_certificate(leaf).expect("our own certificate parses");
    assert_eq!(names.spiffe_id, Some(caller));
    assert!(names.dns.is_empty() && names.uris.len() == 1, "{names:?}");
}

/// SPIFFE ids, hosts, protocols: what is printed is read back as the same.
pub fn names(data: &[u8]) {
    let mut input = Input::new(data);
    let first = String::from_utf8_lossy(input.line()).into_owned();
    let second = String::from_utf8_lossy(input.line()).into_owned();
    if let Ok(id) = first.parse::<SpiffeId>() {
        assert_eq!(id.to_string().parse(), Ok(id), "{first}");
    }
    let (one, other) = (Host::new(&first), Host::new(&second));
    assert_eq!(Host::new(one.as_str()), one);
    assert!(one.covers(&one) && one.overlaps(&one), "{one:?}");
    assert_eq!(
        one.overlaps(&other),
        other.overlaps(&one),
        "{one:?} {other:?}"
    );
    assert_eq!(
        one.by_specificity(&other),
        other.by_specificity(&one).reverse()
    );
    if one.covers(&other) && other.covers(&one) {
        assert_eq!(one, other);
    }
    let resolved = Host::resolve(&first, "ns", "cluster.local");
    assert_eq!(
        Host::resolve(resolved.as_str(), "ns", "cluster.local"),
        resolved,
        "{first}"
    );
    let _ = Protocol::parse(&first);
    let _ = Protocol::of_service_port(&second, Some(&first), &first, 80);
    let _ = malla_model::workload::Locality::parse(&first);
    let _ = malla_model::policy::Glob::parse(&first);
    let _ = malla_translate::names::parse_outbound(&first);
}
