//! Who shows a service-account token: Kubernetes says so (TokenReview), for audience `istio-ca` only.

mod reviews;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use malla_identity::ca_server::{Authenticate, Caller, Denied};
use malla_identity::tls::grpc::PeerInfo;
use malla_model::{SpiffeId, TrustDomain};

use reviews::Reviews;

/// The audience of tokens for the certificate authority and xDS; others are for somebody else.
pub const AUDIENCE: &str = "istio-ca";

/// Accepts tokens of this cluster's service accounts, and certificates of this mesh.
#[derive(Clone)]
pub struct Authenticator {
    client: kube::Client,
    trust_domain: TrustDomain,
    reviews: Arc<Reviews>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    #[must_use]
    pub fn new(client: kube::Client, trust_domain: TrustDomain) -> Self {
        Self {
            client,
            trust_domain,
            reviews: Arc::default(),
        }
    }

    /// The identity a caller proves: its token's where it shows one, else its certificate's. The
    /// connection of a caller who proves one is kept.
    ///
    /// # Errors
    /// When neither proves anything, or the API server cannot be asked.
    pub async fn identify(
        &self,
        token: Option<&str>,
        peer: Option<&PeerInfo>,
    ) -> Result<SpiffeId, Denied> {
        let identity = match token {
            Some(token) => {
                let ask = self.by_token(token);
                self.reviews.identify(token, AUDIENCE, ask).await?
            }
            None => peer
                .and_then(PeerInfo::identity)
                .cloned()
                .ok_or(Denied::NoProof)?,
        };
        if let Some(peer) = peer {
            peer.keeper.keep();
        }
        Ok(identity)
    }

    async fn by_token(&self, token: &str) -> Result<SpiffeId, Denied> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| {
            Denied::Unavailable(format!(
                "the API server could not review the token: {error}"
            ))
        })?;
        identity(&answer.status.unwrap_or_default(), &self.trust_domain)
    }
}

impl Authenticate for Authenticator {
    fn authenticate<'a>(&'a self, caller: Caller<'a>) -> BoxFuture<'a, Result<SpiffeId, Denied>> {
        Box::pin(self.identify(caller.token, caller.peer))
    }
}

fn identity(status: &TokenReviewStatus, trust_domain: &TrustDomain) -> Result<SpiffeId, Denied> {
    if status.authenticated != Some(true) {
        let why = status
            .error
            .clone()
            .unwrap_or_else(|| "it is not a valid token of this cluster".to_owned());
        return Err(Denied::BadProof(why));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Denied::BadProof(format!(
            "it is for the audience {audiences:?}, not for {AUDIENCE}"
        )));
    }
    let user = status
        .user
        .as_ref()
        .and_then(|user| user.username.as_deref())
        .unwrap_or_default();
    match user.split(':').collect::<Vec<_>>()[..] {
        ["system", "serviceaccount", namespace, account] => {
            Ok(SpiffeId::new(trust_domain, namespace, account))
        }
        _ => Err(Denied::BadProof(format!("{user:?} is no service account"))),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn check(authenticated: bool, audiences: &[&str], user: &str) -> Result<String, Denied> {
        let status = TokenReviewStatus {
            authenticated: Some(authenticated),
            audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        };
        identity(&status, &TrustDomain::default()).map(|id| id.to_string())
    }

    #[test]
    fn a_token_must_be_good_ours_and_a_service_accounts() {
        let user = "system:serviceaccount:base:cart";
        assert_eq!(
            check(true, &[AUDIENCE], user).unwrap(),
            "spiffe://cluster.local/ns/base/sa/cart"
        );
        assert!(check(false, &[AUDIENCE], user).is_err());
        assert!(check(true, &["https://kubernetes.default.svc"], user).is_err());
        assert!(check(true, &[], user).is_err());
        assert!(check(true, &[AUDIENCE], "kubernetes-admin").is_err());
    }
}
