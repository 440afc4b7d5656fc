//! The workload's certificate: asked for with the pod's token, renewed before it expires.

use std::sync::Arc;

use malla_identity::bundle::TrustBundle;
use malla_identity::ca_client::{CaClient, CaClientConfig};
use malla_identity::rotate::task::{Rotation, WorkloadConfig};
use malla_identity::source::CertSource;
use malla_identity::tls::grpc::Target;
use rustls::crypto::CryptoProvider;

use crate::settings::Settings;

/// The workload's identity, kept current for as long as this lives.
#[derive(Debug)]
pub struct Identity {
    pub source: CertSource,
    rotation: Rotation,
}

impl Identity {
    /// Starts asking for certificates. [`CertSource::ready`] tells when there is one.
    #[must_use]
    pub fn start(settings: &Settings, provider: Arc<CryptoProvider>) -> Self {
        let source = CertSource::new();
        // Until the first answer, peers of the control plane's root are the best guess.
        if let Ok(text) = std::fs::read(&settings.paths.root)
            && let Ok(bundle) = TrustBundle::from_pem("root-cert.pem", &text)
        {
            source.set_bundle(bundle);
        }
        let config = CaClientConfig {
            target: Target::new(&settings.control_plane),
            root_file: settings.secure.then(|| settings.paths.root.clone()),
            token_file: Some(settings.paths.token.clone()),
            cluster_id: settings.cluster_id.clone(),
        };
        let issuer = Arc::new(CaClient::new(config, source.clone(), provider.clone()));
        let workload = WorkloadConfig::new(settings.identity());
        let rotation = Rotation::start(workload, issuer, source.clone(), provider);
        Self { source, rotation }
    }

    /// Renews now.
    pub fn renew(&self) {
        self.rotation.renew();
    }
}
