//! Who gets through a handshake and who does not, and what each is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use malla_identity::authority::Authority;
use malla_identity::bundle::TrustBundle;
use malla_identity::source::CertSource;
use malla_identity::tls::{ClientAuth, ClientOptions, ServerOptions, client_config, server_config};
use malla_identity::verify::{AnyOf, AnyWorkload};
use malla_model::TrustDomain;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use crate::support::{DAY, authority, bundle, cart, certify, id, provider, shake, workload};

fn server(source: &CertSource, auth: ClientAuth) -> Arc<ServerConfig> {
    let mut options = ServerOptions::new(auth, &[b"istio", b"h2"]);
    options.accept = Arc::new(AnyWorkload);
    Arc::new(server_config(source, options, &provider()).unwrap())
}

fn client(source: &CertSource, options: ClientOptions) -> Arc<ClientConfig> {
    Arc::new(client_config(source, options, &provider()).unwrap())
}

fn mesh(source: &CertSource) -> Arc<ClientConfig> {
    client(source, ClientOptions::any_workload(&[b"istio"]))
}

#[tokio::test]
async fn workloads_of_a_mesh_recognise_each_other() {
    let authority = authority();
    let (ours, theirs) = (workload(&authority, &cart()), workload(&authority, &cart()));
    let done = shake(&mesh(&ours), &server(&theirs, ClientAuth::Required)).await;
    assert_eq!(done.client, Ok(HandshakeKind::Full));
    assert_eq!(done.server, Ok(()));
}

/// Shakes hands between a good peer and one made by `bad`, both ways round.
#[track_caller]
fn refused_both_ways(
    good: &CertSource,
    bad: &CertSource,
    reason: &'static str,
) -> impl Future<Output = ()> {
    let as_client = (mesh(bad), server(good, ClientAuth::Required));
    let as_server = (mesh(good), server(bad, ClientAuth::Required));
    async move {
        let done = shake(&as_client.0, &as_client.1).await;
        let error = done.server.unwrap_err();
        assert!(error.contains(reason), "a bad client: {error}");
        let done = shake(&as_server.0, &as_server.1).await;
        let error = done.client.unwrap_err();
        assert!(error.contains(reason), "a bad server: {error}");
    }
}

#[tokio::test]
async fn another_mesh_is_refused() {
    let (ours, other) = (authority(), authority());
    let good = workload(&ours, &cart());
    // It trusts us, so that the refusal is ours.
    let foreign = certify(&other, &cart(), DAY, SystemTime::now());
    let bad = CertSource::fixed(Some(foreign), bundle(&ours));
    refused_both_ways(&good, &bad, "not signed by a root we trust").await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let yesterday = SystemTime::now() - DAY;
    let ours = Authority::self_signed("cluster.local", yesterday - DAY).unwrap();
    let good = workload(&ours, &cart());
    let stale = certify(&ours, &cart(), Duration::from_secs(3600), yesterday);
    let bad = CertSource::fixed(Some(stale), bundle(&ours));
    refused_both_ways(&good, &bad, "has expired").await;
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused_by_name() {
    let ours = authority();
    let domains = [TrustDomain::new("cluster.local")];
    let credential = certify(&ours, &cart(), DAY, SystemTime::now());
    let good = CertSource::fixed(Some(credential), bundle(&ours).for_domains(domains));
    let bad = workload(&ours, &id("spiffe://other.example/ns/base/sa/cart"));
    refused_both_ways(
        &good,
        &bad,
        "of trust domain other.example, which we do not trust",
    )
    .await;
}

#[tokio::test]
async fn a_certificate_without_identity_is_refused() {
    let ours = authority();
    let good = workload(&ours, &cart());
    let nobody = ours
        .issue_server(
            &["cart.base.svc"],
            None,
            DAY,
            SystemTime::now(),
            &provider(),
        )
        .unwrap();
    let bad = CertSource::fixed(Some(Arc::new(nobody)), bundle(&ours));
    refused_both_ways(&good, &bad, "names no workload").await;
}

#[tokio::test]
async fn only_the_expected_server_is_talked_to() {
    let ours = authority();
    let source = workload(&ours, &cart());
    let order = id("spiffe://cluster.local/ns/base/sa/order");
    let options = ClientOptions::mesh(Arc::new(AnyOf(vec![order])), &[b"istio"]);
    let done = shake(
        &client(&source, options),
        &server(&source, ClientAuth::Required),
    )
    .await;
    let error = done.client.unwrap_err();
    assert!(
        error.contains("base/sa/cart (expected spiffe://cluster.local/ns/base/sa/order)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_without_certificate_is_anonymous_or_refused() {
    let ours = authority();
    let source = workload(&ours, &cart());
    let naked = CertSource::fixed(None, bundle(&ours));
    let anonymous = mesh(&naked);
    let done = shake(&anonymous, &server(&source, ClientAuth::Optional)).await;
    assert_eq!(done.server, Ok(()));
    let done = shake(&anonymous, &server(&source, ClientAuth::Required)).await;
    assert!(done.server.unwrap_err().contains("sent no certificates"));
}

#[tokio::test]
async fn istiod_is_known_by_its_dns_name() {
    let ours = authority();
    let issue = |name: &str| {
        let now = SystemTime::now();
        let credential = ours
            .issue_server(&[name], None, DAY, now, &provider())
            .unwrap();
        CertSource::fixed(Some(Arc::new(credential)), TrustBundle::empty())
    };
    let caller = client(
        &workload(&ours, &cart()),
        ClientOptions::web(false, &[b"h2"]),
    );
    let right = issue("istiod.istio-system.svc");
    assert!(
        shake(&caller, &server(&right, ClientAuth::None))
            .await
            .client
            .is_ok()
    );
    let wrong = issue("other.istio-system.svc");
    let error = shake(&caller, &server(&wrong, ClientAuth::None))
        .await
        .client
        .unwrap_err();
    assert!(error.contains("for another host name"), "{error}");
}

#[tokio::test]
async fn rotation_and_new_roots_need_no_new_configuration() {
    let (old, new) = (authority(), authority());
    let (ours, theirs) = (workload(&old, &cart()), workload(&old, &cart()));
    let (client, server) = (mesh(&ours), server(&theirs, ClientAuth::Required));
    assert_eq!(
        shake(&client, &server).await.client,
        Ok(HandshakeKind::Full)
    );
    assert_eq!(
        shake(&client, &server).await.client,
        Ok(HandshakeKind::Resumed)
    );

    // A renewed certificate keeps sessions.
    theirs.set_credential(certify(&old, &cart(), DAY, SystemTime::now()));
    assert_eq!(
        shake(&client, &server).await.client,
        Ok(HandshakeKind::Resumed)
    );

    // The server stops trusting the old root: a remembered session must not get around that.
    theirs.set_bundle(bundle(&new));
    let done = shake(&client, &server).await;
    assert!(done.server.is_err(), "resumed past a removed root");

    // Both move over to the new root.
    for source in [&ours, &theirs] {
        source.set_bundle(bundle(&new));
        source.set_credential(certify(&new, &cart(), DAY, SystemTime::now()));
    }
    assert_eq!(
        shake(&client, &server).await.client,
        Ok(HandshakeKind::Full)
    );
}
