//! Secrets before they are used: their files read, their contents tried.
//!
//! Invariant: what is published is whole. Files that are replaced one after the other are read until two readings agree,
//! and a certificate whose key does not fit is refused, so a rotation seen half-way changes nothing.
use std::sync::Arc;

use malla_proxy_config::secret::{GenericSecret, Secret, SecretKind};
use malla_proxy_config::tls::{DataSource, TlsCertificate, ValidationContext};

use super::TlsSetup;
use super::material::TlsSetupError;

/// Readings before giving up; the next event of the watch tries again.
const READINGS: usize = 5;

impl TlsSetup {
    /// The secret as it is to be used: with what its files hold now.
    ///
    /// # Errors
    /// When a file cannot be read, or what it holds is of no use.
    pub fn load_secret(&self, secret: &Secret) -> Result<Secret, TlsSetupError> {
        let mut loaded = self.read_secret(secret)?;
        if !secret.files().0.is_empty() {
            let mut readings = 1;
            loop {
                let again = self.read_secret(secret)?;
                if again == loaded {
                    break;
                }
                loaded = again;
                readings += 1;
                if readings == READINGS {
                    return Err(TlsSetupError::Changing);
                }
            }
        }
        match &loaded.kind {
            SecretKind::Certificate(pair) => drop(self.credential(pair)?),
            SecretKind::Validation(context) => drop(self.bundle(&[context])?),
            SecretKind::TicketKeys(keys) => drop(self.read_ticket_keys(keys)?),
            SecretKind::Generic(_) => {}
        }
        Ok(loaded)
    }

    fn read_secret(&self, secret: &Secret) -> Result<Secret, TlsSetupError> {
        let kind = match &secret.kind {
            SecretKind::Certificate(pair) => SecretKind::Certificate(Arc::new(TlsCertificate {
                chain: self.load(&pair.chain)?,
                key: self.load(&pair.key)?,
                watched_directory: pair.watched_directory.clone(),
            })),
            SecretKind::Validation(context) => {
                let load = |source: &Option<DataSource>| {
                    source.as_ref().map(|source| self.load(source)).transpose()
                };
                SecretKind::Validation(Arc::new(ValidationContext {
                    trusted_ca: load(&context.trusted_ca)?,
                    crl: load(&context.crl)?,
                    ..(**context).clone()
                }))
            }
            SecretKind::TicketKeys(keys) => {
                let keys: Result<Vec<_>, _> = keys.iter().map(|key| self.load(key)).collect();
                SecretKind::TicketKeys(keys?.into())
            }
            SecretKind::Generic(generic) => {
                let secret = generic.secret.as_ref();
                let secrets = generic.secrets.iter();
                let secrets: Result<_, TlsSetupError> = secrets
                    .map(|(name, source)| Ok((name.clone(), self.load(source)?)))
                    .collect();
                SecretKind::Generic(Arc::new(GenericSecret {
                    secret: secret.map(|source| self.load(source)).transpose()?,
                    secrets: secrets?,
                }))
            }
        };
        Ok(Secret {
            name: Arc::clone(&secret.name),
            kind,
        })
    }

    fn load(&self, source: &DataSource) -> Result<DataSource, TlsSetupError> {
        Ok(match source {
            DataSource::File(path) | DataSource::Loaded { path, .. } => DataSource::Loaded {
                path: Arc::clone(path),
                bytes: self.read(&DataSource::File(Arc::clone(path)))?.into(),
            },
            DataSource::Inline(_) | DataSource::Env(_) => source.clone(),
        })
    }
}
