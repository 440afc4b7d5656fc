//! One namespace's Secrets: watched, and each looked at when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use malla_api::lower::kubernetes::secret::material;
use malla_identity::credential::Credential;
use malla_identity::pem;
use malla_model::secret::Material;
use rustls::crypto::CryptoProvider;
use tokio::sync::mpsc;
use tracing::warn;

/// What is large, many, and never of use to a proxy.
const FIELDS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// A change in a namespace.
#[derive(Debug)]
pub(super) enum News {
    All(BTreeMap<Arc<str>, Arc<Material>>),
    /// `None` when it is gone.
    One(Arc<str>, Option<Arc<Material>>),
}

/// Sends what a namespace has, and every change, until nobody listens.
pub(super) async fn watch(
    client: kube::Client,
    namespace: Arc<str>,
    provider: Arc<CryptoProvider>,
    send: mpsc::Sender<(Arc<str>, News)>,
) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(FIELDS);
    let stream = watcher::watcher(api, config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut list = BTreeMap::new();
    while let Some(event) = stream.next().await {
        let news = match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(secret)) => {
                list.insert(name(&secret), checked(&secret, &provider));
                continue;
            }
            Ok(Event::InitDone) => News::All(std::mem::take(&mut list)),
            Ok(Event::Apply(secret)) => News::One(name(&secret), Some(checked(&secret, &provider))),
            Ok(Event::Delete(secret)) => News::One(name(&secret), None),
            Err(error) => {
                warn!(%error, "the Secrets of the namespace cannot be watched; what is known of them stays");
                continue;
            }
        };
        if send.send((Arc::clone(&namespace), news)).await.is_err() {
            return;
        }
    }
}

fn name(secret: &Secret) -> Arc<str> {
    secret.metadata.name.as_deref().unwrap_or_default().into()
}

/// What the Secret holds; what no proxy would take is not handed on but said.
fn checked(secret: &Secret, provider: &CryptoProvider) -> Arc<Material> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let data = data
        .iter()
        .map(|(key, ByteString(value))| (key.clone(), value));
    let Material { key_pair, anchors } = material(&data.collect());
    Arc::new(Material {
        key_pair: key_pair.and_then(|pair| {
            let read = Credential::from_pem(&pair.chain, &pair.key, provider);
            read.map_err(|error| Arc::from(error.to_string()))?;
            Ok(pair)
        }),
        anchors: anchors.and_then(|anchors| {
            let read = pem::certificates("the trust anchors", &anchors.roots);
            read.map_err(|error| Arc::from(error.to_string()))?;
            if let Some(revoked) = &anchors.revoked {
                let read = pem::revocation_lists("the revocation lists", revoked);
                read.map_err(|error| Arc::from(error.to_string()))?;
            }
            Ok(anchors)
        }),
    })
}
