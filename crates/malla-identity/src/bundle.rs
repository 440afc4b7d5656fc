//! Whom we trust: root certificates, revocation lists, and the trust domains that count as ours.

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};

use malla_model::TrustDomain;

use crate::pem::{self, MaterialError};

/// An immutable set of roots. Replaced as a whole, never changed.
#[derive(Debug, Default)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    domains: Vec<TrustDomain>,
}

impl TrustBundle {
    /// Trusts nobody.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// # Errors
    /// When a certificate cannot be a root.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, MaterialError> {
        let anchors = roots
            .iter()
            .enumerate()
            .map(|(index, root)| {
                let anchor = anchor_from_trusted_cert(root);
                anchor
                    .map(|anchor| anchor.to_owned())
                    .map_err(|error| MaterialError::Certificate {
                        what: format!("root certificate {}", index + 1),
                        reason: error.to_string(),
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            roots,
            anchors,
            revoked: Vec::new(),
            domains: Vec::new(),
        })
    }

    /// Reads the roots from PEM (`root-cert.pem`); `what` names the text in errors.
    ///
    /// # Errors
    /// When the text holds no certificate, or one that cannot be a root.
    pub fn from_pem(what: &str, text: &[u8]) -> Result<Self, MaterialError> {
        Self::new(pem::certificates(what, text)?)
    }

    /// The same roots, trusting only identities of these domains. Without any, every identity the
    /// roots vouch for is trusted.
    #[must_use]
    pub fn for_domains(mut self, domains: impl IntoIterator<Item = TrustDomain>) -> Self {
        self.domains = domains.into_iter().collect();
        self
    }

    /// The same roots, minus the certificates on these lists (`ca-crl.pem`).
    ///
    /// # Errors
    /// When a list does not parse.
    pub fn revoking(mut self, what: &str, text: &[u8]) -> Result<Self, MaterialError> {
        for list in pem::revocation_lists(what, text)? {
            let list =
                OwnedCertRevocationList::from_der(&list).map_err(|error| MaterialError::Pem {
                    what: what.to_owned(),
                    reason: error.to_string(),
                })?;
            self.revoked.push(list.into());
        }
        Ok(self)
    }

    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    #[must_use]
    pub fn roots_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn revoked(&self) -> &[CertRevocationList<'static>] {
        &self.revoked
    }

    #[must_use]
    pub fn domains(&self) -> &[TrustDomain] {
        &self.domains
    }

    /// Whether replacing `self` by `other` may turn away a peer that is trusted now.
    #[must_use]
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.roots != other.roots
            || self.domains != other.domains
            || !self.revoked.is_empty()
            || !other.revoked.is_empty()
    }
}
