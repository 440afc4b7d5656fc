//! Secrets that Istio's agent serves beside the workload's identity: files that a resource names by the secret's name.
//!
//! istiod asks for them at the agent's cluster `sds-grpc` (`file-cert:CHAIN~KEY`, `file-root:FILE`, `file-root:system`):
//! TLS settings of DestinationRules and Sidecars. A proxy with an identity of its own is its own agent, and reads the files.
//! Source: `pkg/security/security.go` of Istio (`SdsCertificateConfigFromResourceName`).
use std::path::Path;

use bytes::Bytes;
use malla_xds::client::{Received, Update};
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::{core, tls as pb, type_url};
use prost::Message as _;

use super::{Applier, Need};

/// The cluster of Istio's agent.
const AGENT: &str = "sds-grpc";
/// Where systems keep the authorities they trust, as Istio's agent looks for them.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The secret of that name, if it is one of files.
fn secret(name: &str) -> Option<pb::Secret> {
    use pb::secret::Type;
    let file = |path: &str| {
        Some(core::DataSource {
            specifier: Some(Specifier::Filename(path.to_owned())),
            ..core::DataSource::default()
        })
    };
    let kind = if let Some(pair) = name.strip_prefix("file-cert:") {
        let (chain, key) = pair.split_once('~')?;
        Type::TlsCertificate(pb::TlsCertificate {
            certificate_chain: file(chain),
            private_key: file(key),
            ..pb::TlsCertificate::default()
        })
    } else {
        let path = match name.strip_prefix("file-root:")? {
            "system" => {
                let mut known = SYSTEM_ROOTS.iter();
                known.find(|path| Path::new(path).exists()).copied()?
            }
            // The second part is a file of revoked certificates.
            path => path.split_once('~').map_or(path, |(root, _)| root),
        };
        let crl = name.split_once('~').and_then(|(_, crl)| file(crl));
        Type::ValidationContext(pb::CertificateValidationContext {
            trusted_ca: file(path),
            crl,
            ..pb::CertificateValidationContext::default()
        })
    };
    Some(pb::Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    })
}

/// True for a secret of files that Istio's agent would serve.
fn is_file(need: &Need) -> bool {
    use malla_proxy_config::config_source::Origin;
    let of_agent = match &need.reference.source.from {
        Origin::Grpc(origin) => &*origin.service.cluster == AGENT,
        Origin::Ads | Origin::Path(_) | Origin::Bootstrap => false,
    };
    let name = &need.reference.name;
    need.type_url == type_url::SECRET
        && of_agent
        && (name.starts_with("file-cert:") || name.starts_with("file-root:"))
}

impl Applier {
    /// Reads the secrets of files among these needs that have not been read; they are followed from then on. True if
    /// there was one.
    pub fn read_agent_files(&mut self, needs: &[Need]) -> bool {
        let new: Vec<Received> = needs
            .iter()
            .filter(|need| self.is_agent_file(need))
            .map(|need| &need.reference.name)
            .filter(|name| !self.from_files.contains_key(&***name))
            .filter_map(|name| {
                Some(Received {
                    name: (&**name).into(),
                    version: "file".into(),
                    body: Bytes::from(secret(name)?.encode_to_vec()),
                })
            })
            .collect();
        if new.is_empty() {
            return false;
        }
        let wanted = new.len();
        let rejected = self.apply(&Update {
            type_url: type_url::SECRET.into(),
            resources: new,
            removed: Vec::new(),
            version: String::new(),
        });
        for rejection in &rejected {
            let (name, reason) = (&*rejection.name, &*rejection.reason);
            tracing::warn!(name, reason, "the files of a secret cannot be used");
        }
        rejected.len() < wanted
    }

    /// True for a secret that this process serves itself in the agent's place.
    pub fn is_agent_file(&self, need: &Need) -> bool {
        !self.own_secrets.is_empty() && is_file(need)
    }
}

#[cfg(test)]
mod tests {
    use super::secret;

    #[test]
    fn names_say_which_files() {
        let files = |name: &str| {
            let text = format!("{:?}", secret(name)?);
            let parts = text.split("Filename(\"").skip(1);
            Some(
                parts
                    .filter_map(|part| part.split('"').next().map(str::to_owned))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            files("file-cert:/a/c.pem~/a/k.pem").unwrap(),
            ["/a/c.pem", "/a/k.pem"]
        );
        assert_eq!(files("file-root:/a/ca.pem").unwrap(), ["/a/ca.pem"]);
        assert_eq!(files("file-cert:/a/c.pem"), None);
        assert_eq!(files("kubernetes://web"), None);
    }
}
