//! The control plane's own certificate: renewed at half of its life, while everything runs on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use malla_identity::authority::{Authority, AuthorityError};
use malla_identity::bundle::TrustBundle;
use malla_identity::credential::Credential;
use malla_identity::rotate::{Input, Output, RotationConfig, Rotator};
use malla_identity::source::CertSource;
use malla_model::{SpiffeId, TrustDomain};
use rustls::crypto::CryptoProvider;
use tracing::{error, info};

use super::{ControlConfig, ControlError};

const LIFE: Duration = Duration::from_secs(24 * 3600);

/// A wall clock may jump (suspend, NTP): look at it at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Issues the certificate, and keeps the source that servers take it from.
pub(super) struct OwnCertificate {
    names: [String; 5],
    id: SpiffeId,
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    rotator: Rotator,
    source: CertSource,
}

impl OwnCertificate {
    /// Issues the first.
    pub(super) fn new(
        config: &ControlConfig,
        authority: &Arc<Authority>,
        trust_domain: &TrustDomain,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, ControlError> {
        let namespace = &config.namespace;
        let roots = authority.roots_pem();
        let bundle = TrustBundle::from_pem("the mesh's roots", roots.as_bytes())
            .map_err(ControlError::Roots)?;
        let mut own = Self {
            names: [
                format!("istiod.{namespace}.svc"),
                format!("istiod.{namespace}.svc.cluster.local"),
                format!("istiod.{namespace}"),
                "istiod".to_owned(),
                "istio-pilot.istio-system.svc".to_owned(),
            ],
            id: SpiffeId::new(trust_domain, namespace, "istiod"),
            authority: Arc::clone(authority),
            provider: Arc::clone(provider),
            rotator: Rotator::new(RotationConfig::default(), 0),
            source: CertSource::fixed(None, bundle.for_domains([trust_domain.clone()])),
        };
        own.renew_if_due(SystemTime::now())
            .map_err(ControlError::Certificate)?;
        Ok(own)
    }

    /// Has the current certificate, always.
    pub(super) fn source(&self) -> CertSource {
        self.source.clone()
    }

    /// Renews for as long as it is polled.
    pub(super) async fn keep(mut self) {
        loop {
            if let Err(error) = self.renew_if_due(SystemTime::now()) {
                error!(%error, "the control plane's own certificate is not renewed, will try again");
            }
            let due = self.rotator.deadline();
            let wait = due.and_then(|due| due.duration_since(SystemTime::now()).ok());
            tokio::time::sleep(wait.unwrap_or_default().min(LONGEST_SLEEP)).await;
        }
    }

    fn renew_if_due(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        if self.rotator.poll_output(now) != Some(Output::Request) {
            return Ok(());
        }
        let issued = self.issue(now);
        let input = match &issued {
            Ok(credential) => Input::Issued {
                not_before: credential.not_before(),
                not_after: credential.not_after(),
            },
            Err(_) => Input::Failed,
        };
        self.rotator.handle(now, input);
        let credential = issued?;
        info!(expires = ?credential.not_after(), "the control plane has a new certificate of its own");
        self.source.set_credential(Arc::new(credential));
        Ok(())
    }

    fn issue(&self, now: SystemTime) -> Result<Credential, AuthorityError> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        self.authority
            .issue_server(&names, Some(&self.id), LIFE, now, &self.provider)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::app::Ports;

    #[test]
    fn it_is_renewed_in_time_and_not_before() {
        let start = SystemTime::now();
        let domain = TrustDomain::default();
        let authority = Arc::new(Authority::self_signed(domain.as_str(), start).unwrap());
        let config = ControlConfig {
            namespace: "istio-system".into(),
            pod: "istiod-0".into(),
            cluster_id: "Kubernetes".into(),
            image: "malla/malla".into(),
            proxy_args: vec![],
            revisions: vec![],
            bind: IpAddr::from([127, 0, 0, 1]),
            ports: Ports::default(),
        };
        let provider = malla_identity::default_provider();
        let mut own = OwnCertificate::new(&config, &authority, &domain, &provider).unwrap();
        let source = own.source();
        let serial = || source.credential().unwrap().serial().to_owned();
        let mut serials = vec![serial()];
        for hour in 1..=48 {
            let now = start + Duration::from_secs(hour * 3600);
            own.renew_if_due(now).unwrap();
            assert!(source.credential().unwrap().not_after() > now);
            if !serials.contains(&serial()) {
                serials.push(serial());
            }
        }
        assert!((4..=5).contains(&serials.len()), "{}", serials.len());
    }
}
