//! Istio's certificate service, the asking side: what a workload's agent does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use malla_xds_proto::ca::{IstioCertificateRequest, IstioCertificateServiceClient};
use rustls::crypto::CryptoProvider;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::bundle::TrustBundle;
use crate::pem;
use crate::rotate::task::{IssueError, Issued, Issuer};
use crate::source::CertSource;
use crate::tls::grpc::{ChannelOptions, Target, channel};
use crate::tls::{ClientOptions, client_config};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A service-account token is about 1 KiB.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// How the authority is reached.
#[derive(Debug, Clone)]
pub struct CaClientConfig {
    /// `istiod.istio-system.svc:15012` as a rule.
    pub target: Target,
    /// The root certificate of the authority's own server certificate
    /// (`/var/run/secrets/istio/root-cert.pem`), read again at every call. `None` is plain text, for
    /// port 15010.
    pub root_file: Option<PathBuf>,
    /// The service-account token (`/var/run/secrets/tokens/istio-token`), read again at every call
    /// because the kubelet replaces it. Without one, the credential of `source` is the proof.
    pub token_file: Option<PathBuf>,
    /// Sent as `clusterid`, by which istiod picks the API server that reviews the token.
    pub cluster_id: String,
}

/// Asks Istio's certificate service.
#[derive(Debug)]
pub struct CaClient {
    config: CaClientConfig,
    source: CertSource,
    provider: Arc<CryptoProvider>,
}

impl CaClient {
    /// `source` is where the proof comes from when there is no token: a workload that has a
    /// certificate renews with it.
    #[must_use]
    pub fn new(config: CaClientConfig, source: CertSource, provider: Arc<CryptoProvider>) -> Self {
        Self {
            config,
            source,
            provider,
        }
    }

    async fn call(&self, csr: String, ttl: Duration) -> Result<Issued, IssueError> {
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        });
        request.set_timeout(TIMEOUT);
        self.add_metadata(&mut request).await?;
        let tls = self.tls().await?;
        let channel = channel(&self.config.target, tls, ChannelOptions::default())
            .await
            .map_err(|error| IssueError::Unreachable(error.to_string()))?;
        let answer = IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await
            .map_err(from_status)?;
        read_answer(&answer.into_inner().cert_chain)
    }

    async fn add_metadata<T>(&self, request: &mut Request<T>) -> Result<(), IssueError> {
        let metadata = request.metadata_mut();
        if let Ok(cluster) = MetadataValue::try_from(&self.config.cluster_id) {
            metadata.insert("clusterid", cluster);
        }
        let Some(path) = &self.config.token_file else {
            return Ok(());
        };
        let token = read_bounded(path, MAX_TOKEN_BYTES).await?;
        let token = String::from_utf8_lossy(&token);
        let value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| IssueError::Unreachable(format!("{} holds no token", path.display())))?;
        metadata.insert("authorization", value);
        Ok(())
    }

    async fn tls(&self) -> Result<Option<Arc<rustls::ClientConfig>>, IssueError> {
        let Some(path) = &self.config.root_file else {
            return Ok(None);
        };
        let roots = read_bounded(path, pem::MAX_PEM_BYTES).await?;
        let bundle = TrustBundle::from_pem(&path.display().to_string(), &roots)?;
        let with_token = self.config.token_file.is_some();
        let credential = self.source.credential().filter(|_| !with_token);
        let options = ClientOptions::web(credential.is_some(), &[b"h2"]);
        let source = CertSource::fixed(credential, bundle);
        let config = client_config(&source, options, &self.provider)
            .map_err(|error| IssueError::Unreachable(error.to_string()))?;
        Ok(Some(Arc::new(config)))
    }
}

impl Issuer for CaClient {
    fn issue(&self, csr: String, ttl: Duration) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            tokio::time::timeout(TIMEOUT, self.call(csr, ttl))
                .await
                .unwrap_or_else(|_| {
                    let target = &self.config.target.address;
                    let text = format!("{target} did not answer within {TIMEOUT:?}");
                    Err(IssueError::Unreachable(text))
                })
        })
    }
}

/// Splits what the service answers: the last entry holds the roots, the others are the chain.
/// (istiod repeats the root at the end of the chain in some set-ups; it does no harm there, but
/// peers do not need it.)
fn read_answer(entries: &[String]) -> Result<Issued, IssueError> {
    let Some((roots, chain)) = entries.split_last() else {
        return Err(IssueError::Refused("an empty answer".to_owned()));
    };
    let roots = pem::certificates("the root of the answer", roots.as_bytes())?;
    let mut certificates = Vec::new();
    for entry in chain {
        certificates.extend(pem::certificates(
            "the chain of the answer",
            entry.as_bytes(),
        )?);
    }
    certificates.retain(|certificate| !roots.contains(certificate));
    Ok(Issued {
        chain: certificates,
        roots,
    })
}

fn from_status(status: Status) -> IssueError {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => {
            IssueError::Unreachable(text)
        }
        _ => IssueError::Refused(text),
    }
}

async fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, IssueError> {
    let unreadable = |reason: String| {
        IssueError::Unreachable(format!("cannot read {}: {reason}", path.display()))
    };
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() > limit {
        return Err(unreadable(format!(
            "{} bytes (expected at most {limit})",
            bytes.len()
        )));
    }
    Ok(bytes)
}
