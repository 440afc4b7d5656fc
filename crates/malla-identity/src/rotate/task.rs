//! The task that follows the [`Rotator`](super::Rotator): asks an issuer and fills a source.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use malla_model::{SpiffeId, TrustDomain};
use malla_runtime::log::Throttle;
use malla_runtime::task::AbortOnDrop;

use super::{Input, Output, RotationConfig, Rotator};
use crate::bundle::TrustBundle;
use crate::credential::Credential;
use crate::key::PrivateKey;
use crate::pem::MaterialError;
use crate::source::CertSource;
use crate::{csr, verify};

/// A wall clock may jump (suspend, NTP): look at it at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What an issuer gives.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, up to but without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom to trust from now on; empty leaves the source's bundle as it is.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate authority could not be asked: {0}")]
    Unreachable(String),
    #[error("the certificate authority refused: {0}")]
    Refused(String),
    #[error("the certificate authority's answer is of no use")]
    Material(#[from] MaterialError),
    #[error("the certificate authority certified {found:?} (expected {expected})")]
    OtherIdentity { found: String, expected: SpiffeId },
}

/// Someone who certifies: Istio's certificate service, or an authority in the same process.
pub trait Issuer: Send + Sync {
    /// Has `csr` (PEM) certified for `ttl`; fewer seconds may be granted.
    fn issue(&self, csr: String, ttl: Duration) -> BoxFuture<'_, Result<Issued, IssueError>>;
}

/// What is kept certified.
#[derive(Debug, Clone)]
pub struct WorkloadConfig {
    pub id: SpiffeId,
    pub ttl: Duration,
    pub rotation: RotationConfig,
    /// Domains whose workloads are trusted; empty trusts all that the roots vouch for.
    pub trust_domains: Vec<TrustDomain>,
}

impl WorkloadConfig {
    /// Istio's defaults: 24 hours, renewed at half-life.
    #[must_use]
    pub fn new(id: SpiffeId) -> Self {
        Self {
            id,
            ttl: Duration::from_secs(24 * 3600),
            rotation: RotationConfig::default(),
            trust_domains: Vec::new(),
        }
    }
}

/// Keeps a source certified until it is dropped.
#[derive(Debug)]
pub struct Rotation {
    renew: Arc<Notify>,
    _task: AbortOnDrop<()>,
}

impl Rotation {
    /// Starts asking `issuer`; `source` gets every new credential (and the roots that come with it).
    #[must_use]
    pub fn start(
        config: WorkloadConfig,
        issuer: Arc<dyn Issuer>,
        source: CertSource,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let renew = Arc::new(Notify::new());
        let span = tracing::info_span!("rotation", id = %config.id);
        let shell = Shell {
            rotator: Rotator::new(config.rotation, rand::random()),
            config,
            issuer,
            source,
            provider,
            renew: renew.clone(),
            warnings: Throttle::default(),
        };
        Self {
            renew,
            _task: AbortOnDrop::spawn(span, shell.run()),
        }
    }

    /// Renews now, whatever the age of the certificate.
    pub fn renew(&self) {
        self.renew.notify_one();
    }
}

struct Shell {
    config: WorkloadConfig,
    rotator: Rotator,
    issuer: Arc<dyn Issuer>,
    source: CertSource,
    provider: Arc<CryptoProvider>,
    renew: Arc<Notify>,
    warnings: Throttle,
}

impl Shell {
    async fn run(mut self) {
        loop {
            while let Some(Output::Request) = self.rotator.poll_output(SystemTime::now()) {
                let input = self.request().await;
                self.rotator.handle(SystemTime::now(), input);
            }
            let wait = self
                .rotator
                .deadline()
                .and_then(|due| due.duration_since(SystemTime::now()).ok())
                .unwrap_or_default();
            tokio::select! {
                biased; // An order to renew outranks the schedule.
                () = self.renew.notified() => {
                    self.rotator.handle(SystemTime::now(), Input::Invalidated);
                }
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    async fn request(&self) -> Input {
        match self.obtain().await {
            Ok(credential) => {
                tracing::info!(
                    serial = credential.serial(),
                    expires = ?credential.not_after(),
                    "certificate renewed"
                );
                let input = Input::Issued {
                    not_before: credential.not_before(),
                    not_after: credential.not_after(),
                };
                self.source.set_credential(credential);
                input
            }
            Err(error) => {
                if let Some(skipped) = self.warnings.allow("issue") {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, skipped, "no certificate yet, will ask again");
                }
                Input::Failed
            }
        }
    }

    /// A new key for every certificate: a stolen one is worth half a day.
    async fn obtain(&self) -> Result<Arc<Credential>, IssueError> {
        let key = PrivateKey::generate()?;
        let csr = csr::request(&key, &self.config.id)?;
        let issued = self.issuer.issue(csr, self.config.ttl).await?;
        let credential = Credential::new(issued.chain, key.to_der(), &self.provider)?;
        if credential.spiffe_id() != Some(&self.config.id) {
            return Err(IssueError::OtherIdentity {
                found: credential.names().to_string(),
                expected: self.config.id.clone(),
            });
        }
        if !issued.roots.is_empty() {
            let bundle = TrustBundle::new(issued.roots)?
                .for_domains(self.config.trust_domains.iter().cloned());
            self.source.set_bundle(bundle);
        }
        self.check_against_own_roots(&credential);
        Ok(Arc::new(credential))
    }

    /// A certificate our own roots do not vouch for works for nobody; say so where it is seen first.
    fn check_against_own_roots(&self, credential: &Credential) {
        let verified = verify::verify(
            &self.source.bundle(),
            credential.chain(),
            verify::Usage::Server,
            SystemTime::now(),
            &self.provider.signature_verification_algorithms,
        );
        if let Err(reason) = verified {
            tracing::warn!(%reason, "peers with our roots will refuse the new certificate");
        }
    }
}
