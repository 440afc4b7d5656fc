//! Istio's certificate service end to end: a workload with a token gets a certificate, renews it by
//! itself, and nobody gets another's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use malla_identity::authority::{Authority, Lifetimes};
use malla_identity::ca_client::{CaClient, CaClientConfig};
use malla_identity::ca_server::{Authenticate, ByCertificate, CaServer, Caller, Denied, RateLimit};
use malla_identity::csr;
use malla_identity::key::PrivateKey;
use malla_identity::rotate::task::{Issuer, Rotation, WorkloadConfig};
use malla_identity::source::CertSource;
use malla_identity::tls::grpc::{AcceptLimits, Target, incoming};
use malla_identity::tls::{ClientAuth, ServerOptions, server_config};
use malla_model::SpiffeId;
use malla_runtime::task::AbortOnDrop;
use malla_xds_proto::ca::IstioCertificateServiceServer;
use tokio::net::TcpListener;
use tracing::Span;

use crate::support::{DAY, authority, bundle, cart, certify, id, provider};

const PATIENCE: Duration = Duration::from_secs(10);

/// Knows one token, and certificates.
struct OneToken;

impl Authenticate for OneToken {
    fn authenticate<'a>(&'a self, caller: Caller<'a>) -> BoxFuture<'a, Result<SpiffeId, Denied>> {
        match caller.token {
            Some("cart's token") => Box::pin(async { Ok(cart()) }),
            Some(_) => Box::pin(async { Err(Denied::BadProof("unknown token".into())) }),
            None => ByCertificate.authenticate(caller),
        }
    }
}

struct Service {
    address: SocketAddr,
    authority: Arc<ArcSwap<Authority>>,
    folder: tempfile::TempDir,
    _serving: AbortOnDrop<()>,
}

impl Service {
    async fn start(lifetimes: Lifetimes, limit: RateLimit) -> Self {
        let authority = authority();
        let names = ["istiod.istio-system.svc"];
        let own = authority
            .issue_server(&names, None, DAY, SystemTime::now(), &provider())
            .unwrap();
        let source = CertSource::fixed(Some(Arc::new(own)), bundle(&authority));
        let options = ServerOptions::new(ClientAuth::Optional, &[b"h2"]);
        let config = Arc::new(server_config(&source, options, &provider()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.pem"), authority.roots_pem()).unwrap();
        std::fs::write(folder.path().join("token"), "cart's token\n").unwrap();
        let authority = Arc::new(ArcSwap::from_pointee(authority));
        let service = CaServer::new(authority.clone(), OneToken, lifetimes, limit);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = AbortOnDrop::spawn(Span::none(), async move {
            tonic::transport::Server::builder()
                .add_service(IstioCertificateServiceServer::new(service))
                .serve_with_incoming(incoming(listener, Some(config), AcceptLimits::default()))
                .await
                .unwrap();
        });
        Self {
            address,
            authority,
            folder,
            _serving: serving,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, token: bool, source: &CertSource) -> CaClient {
        let config = CaClientConfig {
            target: Target {
                address: self.address.to_string(),
                server_name: Some("istiod.istio-system.svc".to_owned()),
            },
            root_file: Some(self.file("root.pem")),
            token_file: token.then(|| self.file("token")),
            cluster_id: "Kubernetes".to_owned(),
        };
        CaClient::new(config, source.clone(), provider())
    }
}

fn request(id: &SpiffeId) -> String {
    csr::request(&PrivateKey::generate().unwrap(), id).unwrap()
}

#[tokio::test]
async fn a_workload_is_certified_and_renewed() {
    let lifetimes = Lifetimes {
        max: Duration::from_secs(2),
        ..Lifetimes::default()
    };
    let service = Service::start(lifetimes, RateLimit::default()).await;
    let source = CertSource::new();
    let issuer = Arc::new(service.client(true, &source));
    let _rotation = Rotation::start(
        WorkloadConfig::new(cart()),
        issuer,
        source.clone(),
        provider(),
    );
    tokio::time::timeout(PATIENCE, source.ready())
        .await
        .unwrap();
    let first = source.credential().unwrap();
    assert_eq!(first.spiffe_id(), Some(&cart()));
    assert_eq!(source.bundle().roots(), service.authority.load().roots());
    let renewed = async {
        let mut changes = source.changes();
        while source.credential().unwrap().serial() == first.serial() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
}

#[tokio::test]
async fn the_certificate_names_who_asked_whatever_was_asked_for() {
    let service = Service::start(Lifetimes::default(), RateLimit::default()).await;
    let client = service.client(true, &CertSource::new());
    let key = PrivateKey::generate().unwrap();
    let admin = id("spiffe://cluster.local/ns/istio-system/sa/istiod");
    let csr = csr::request(&key, &admin).unwrap();
    let issued = client.issue(csr, DAY * 1000).await.unwrap();
    let credential =
        malla_identity::credential::Credential::new(issued.chain, key.to_der(), &provider());
    let credential = credential.unwrap();
    assert_eq!(credential.spiffe_id(), Some(&cart()));
    let life = credential
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(life <= DAY * 90, "{life:?}");
}

#[tokio::test]
async fn a_certificate_is_a_proof_too_and_nothing_is_none() {
    let service = Service::start(Lifetimes::default(), RateLimit::default()).await;
    let authority = service.authority.load_full();
    let user = id("spiffe://cluster.local/ns/base/sa/user");
    let held = certify(&authority, &user, DAY, SystemTime::now());
    let source = CertSource::fixed(Some(held), bundle(&authority));
    let issued = service
        .client(false, &source)
        .issue(request(&user), DAY)
        .await;
    assert!(issued.is_ok(), "{issued:?}");

    let nobody = service.client(false, &CertSource::new());
    let error = nobody
        .issue(request(&user), DAY)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no proof of identity"), "{error}");
    std::fs::write(service.file("token"), "stolen").unwrap();
    let thief = service.client(true, &CertSource::new());
    let error = thief
        .issue(request(&user), DAY)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("unknown token"), "{error}");
}

#[tokio::test]
async fn a_false_authority_is_not_given_the_token() {
    let service = Service::start(Lifetimes::default(), RateLimit::default()).await;
    std::fs::write(service.file("root.pem"), authority().roots_pem()).unwrap();
    let client = service.client(true, &CertSource::new());
    let error = client
        .issue(request(&cart()), DAY)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("not signed by a root we trust"), "{error}");
}

#[tokio::test]
async fn asking_all_the_time_is_refused() {
    let limit = RateLimit {
        burst: 2,
        per_second: 0.01,
    };
    let service = Service::start(Lifetimes::default(), limit).await;
    let client = service.client(true, &CertSource::new());
    for _ in 0..2 {
        client.issue(request(&cart()), DAY).await.unwrap();
    }
    let error = client
        .issue(request(&cart()), DAY)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("too often"), "{error}");
}
