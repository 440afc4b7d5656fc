//! Istio's certificate service, the answering side (`istio.v1.auth.IstioCertificateService`).
//!
//! Who asks is proved by the bearer token or the client certificate of the call and decided by an
//! [`Authenticate`]; the certificate names that identity and no other.

mod limit;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use malla_xds_proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use malla_model::SpiffeId;

use crate::authority::{Authority, Lifetimes};
use crate::pem;
use crate::tls::grpc::PeerInfo;

use limit::Limiter;
pub use limit::RateLimit;

/// What a caller shows.
#[derive(Debug)]
pub struct Caller<'a> {
    /// From `authorization: Bearer ...`.
    pub token: Option<&'a str>,
    /// From the connection; a verified client certificate is in it.
    pub peer: Option<&'a PeerInfo>,
    /// Everything else it sent, such as `clusterid`.
    pub metadata: &'a MetadataMap,
}

/// Why a caller is not who it says, or may not ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "no proof of identity (expected a bearer token for audience istio-ca, or a client certificate)"
    )]
    NoProof,
    #[error("the proof of identity is not accepted: {0}")]
    BadProof(String),
    #[error("identities cannot be checked at the moment: {0}")]
    Unavailable(String),
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let text = denied.to_string();
        match denied {
            Denied::NoProof | Denied::BadProof(_) => Self::unauthenticated(text),
            Denied::Unavailable(_) => Self::unavailable(text),
        }
    }
}

/// Decides who a caller is.
pub trait Authenticate: Send + Sync + 'static {
    fn authenticate<'a>(&'a self, caller: Caller<'a>) -> BoxFuture<'a, Result<SpiffeId, Denied>>;
}

/// Accepts verified client certificates only; what a renewing workload shows, and the last resort
/// of an authenticator that also knows tokens.
#[derive(Debug, Clone, Copy)]
pub struct ByCertificate;

impl Authenticate for ByCertificate {
    fn authenticate<'a>(&'a self, caller: Caller<'a>) -> BoxFuture<'a, Result<SpiffeId, Denied>> {
        let identity = caller.peer.and_then(PeerInfo::identity).cloned();
        Box::pin(async move { identity.ok_or(Denied::NoProof) })
    }
}

/// The service; add it to tonic's router with `IstioCertificateServiceServer::new`.
pub struct CaServer<A> {
    authority: Arc<ArcSwap<Authority>>,
    authenticate: A,
    lifetimes: Lifetimes,
    limiter: Limiter,
}

impl<A> std::fmt::Debug for CaServer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaServer")
            .field("authority", &self.authority.load())
            .finish_non_exhaustive()
    }
}

impl<A: Authenticate> CaServer<A> {
    /// The authority is looked up at every call, so that it can be replaced.
    pub fn new(
        authority: Arc<ArcSwap<Authority>>,
        authenticate: A,
        lifetimes: Lifetimes,
        limit: RateLimit,
    ) -> Self {
        Self {
            authority,
            authenticate,
            lifetimes,
            limiter: Limiter::new(limit),
        }
    }

    async fn sign(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller {
            token: bearer(&metadata),
            peer: extensions.get::<PeerInfo>(),
            metadata: &metadata,
        };
        let id = self.authenticate.authenticate(caller).await?;
        if !self.limiter.admit(&id, Instant::now()) {
            return Err(Status::resource_exhausted(format!(
                "{id} asks for certificates too often (is it restarting in a loop?)"
            )));
        }
        let csr = crate::csr::Request::from_pem(message.csr.as_bytes())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wanted = u64::try_from(message.validity_duration)
            .map_err(|_| Status::invalid_argument("validity_duration is negative"))?;
        let ttl = self.lifetimes.grant(Duration::from_secs(wanted));
        let other = csr.wanted.iter().find(|wanted| **wanted != id.to_string());
        if let Some(wanted) = other {
            // Istio's agents always ask for their own; this is a confused or a curious one.
            tracing::warn!(%id, wanted, "a request for another identity gets its sender's own");
        }
        let authority = self.authority.load_full();
        let chain = authority
            .certify(&csr, &id, ttl, SystemTime::now())
            .map_err(|error| Status::internal(error.to_string()))?;
        tracing::debug!(%id, ?ttl, "certificate issued");
        // Leaf, intermediates, roots: Istio's agent takes the last entry as the root.
        let mut cert_chain: Vec<String> = chain
            .iter()
            .map(|certificate| pem::encode_certificates([certificate]))
            .collect();
        cert_chain.push(authority.roots_pem());
        Ok(IstioCertificateResponse { cert_chain })
    }
}

#[tonic::async_trait]
impl<A: Authenticate> IstioCertificateService for CaServer<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let answer = self.sign(request).await;
        if let Err(status) = &answer {
            tracing::info!(code = ?status.code(), reason = status.message(), "no certificate issued");
        }
        answer.map(Response::new)
    }
}

/// The token of `authorization: Bearer TOKEN`; the scheme's case does not matter (RFC 9110 §11.1).
#[must_use]
pub fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}
