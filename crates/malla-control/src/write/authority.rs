//! The certificate authority's Secret: the operator's `cacerts` where there is one, else our own
//! self-signed root, made once and then always the same.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use malla_identity::authority::store::{PLUGGED_IN_SECRET, SELF_SIGNED_SECRET, SELF_SIGNED_TYPE};
use malla_identity::authority::{Authority, AuthorityError};
use tracing::info;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the control plane cannot read or write its Secrets in namespace {namespace} (does its Role allow it?)"
    )]
    Kubernetes {
        namespace: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("Secret {namespace}/{name} holds no usable certificate authority")]
    Unusable {
        namespace: String,
        name: &'static str,
        #[source]
        source: AuthorityError,
    },
    #[error("no authority could be made")]
    NotMade(#[source] AuthorityError),
}

/// Loads the authority, or makes and keeps one.
///
/// # Errors
/// When a Secret is there and unusable: signing with another root than the operator's would break
/// every peer, so nothing is made up then.
pub async fn load_or_create(
    client: &kube::Client,
    namespace: &str,
    trust_domain: &str,
    now: SystemTime,
) -> Result<Authority, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |source| Error::Kubernetes {
        namespace: namespace.to_owned(),
        source: Box::new(source),
    };
    for name in [PLUGGED_IN_SECRET, SELF_SIGNED_SECRET] {
        if let Some(secret) = secrets.get_opt(name).await.map_err(failed)? {
            return read(namespace, name, secret);
        }
    }
    let made = Authority::self_signed(trust_domain, now).map_err(Error::NotMade)?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SELF_SIGNED_SECRET.into()),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        type_: Some(SELF_SIGNED_TYPE.into()),
        data: Some(
            made.to_secret()
                .into_iter()
                .map(|(key, value)| (key, ByteString(value)))
                .collect(),
        ),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => {
            info!(
                secret = SELF_SIGNED_SECRET,
                "made a self-signed certificate authority"
            );
            Ok(made)
        }
        // Another replica was faster; its root is the mesh's.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let theirs = secrets.get(SELF_SIGNED_SECRET).await.map_err(failed)?;
            read(namespace, SELF_SIGNED_SECRET, theirs)
        }
        Err(error) => Err(failed(error)),
    }
}

fn read(namespace: &str, name: &'static str, secret: Secret) -> Result<Authority, Error> {
    let data: BTreeMap<String, Vec<u8>> = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0))
        .collect();
    Authority::from_secret(name, &data).map_err(|source| Error::Unusable {
        namespace: namespace.to_owned(),
        name,
        source,
    })
}
