//! Secrets for proxies: reads those of every namespace whose proxies ask for one, and asks
//! Kubernetes which of their service accounts may.
//!
//! Invariants. A namespace is watched once a proxy that has proved to be of it has asked. A service
//! account may read what Kubernetes lets it list; a refusal is asked about again after a minute, a
//! permission after five (as Istio has it), and an API server that does not answer changes nothing.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use malla_model::Secrets;
use malla_model::secret::{Keys, Material};
use malla_runtime::task::AbortOnDrop;
use rustls::crypto::CryptoProvider;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info_span, warn};

use read::News;

/// How long a permission, a refusal, and a question without an answer hold.
const PERMITTED: Duration = Duration::from_secs(300);
const REFUSED: Duration = Duration::from_secs(60);
const UNANSWERED: Duration = Duration::from_secs(1);
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A service account whose proxies ask for secrets of their namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reader {
    pub namespace: Arc<str>,
    /// `None` where somebody else has decided that they may.
    pub account: Option<Arc<str>>,
}

/// Who has asked so far.
#[derive(Debug, Default)]
pub struct Asked {
    readers: Mutex<BTreeSet<Reader>>,
    news: Notify,
}

impl Asked {
    /// Notes that a proxy wants a secret that is not known yet.
    pub fn ask(&self, reader: Reader) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.insert(reader) {
            self.news.notify_one();
        }
    }

    fn all(&self) -> BTreeSet<Reader> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.clone()
    }
}

/// Keeps `secrets` true until nobody listens.
pub async fn keep(
    client: kube::Client,
    provider: Arc<CryptoProvider>,
    asked: Arc<Asked>,
    secrets: watch::Sender<Arc<Secrets>>,
) {
    let (send, mut received) = mpsc::channel(64);
    let mut watches: BTreeMap<Arc<str>, AbortOnDrop<()>> = BTreeMap::new();
    let mut known = Known::default();
    let mut reviews: JoinSet<(Reader, Option<bool>)> = JoinSet::new();
    loop {
        for reader in asked.all() {
            watches
                .entry(Arc::clone(&reader.namespace))
                .or_insert_with(|| {
                    let namespace = Arc::clone(&reader.namespace);
                    let span = info_span!("secrets", %namespace);
                    let reading = read::watch(
                        client.clone(),
                        namespace,
                        Arc::clone(&provider),
                        send.clone(),
                    );
                    AbortOnDrop::spawn(span, reading)
                });
            if reader.account.is_some() && known.is_due(&reader, Instant::now()) {
                reviews.spawn(review(client.clone(), reader));
            }
        }
        let next = known.next_question();
        tokio::select! {
            () = asked.news.notified() => {}
            Some((namespace, news)) = received.recv() => known.read(namespace, news),
            Some(Ok((reader, answer))) = reviews.join_next() => known.answered(reader, answer, Instant::now()),
            () = at(next) => {}
        }
        if known.changed {
            known.changed = false;
            secrets.send_replace(Arc::new(known.secrets()));
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => pending().await,
    }
}

/// Whether Kubernetes lets a service account list the Secrets of its namespace; `None` when the
/// API server cannot be asked.
async fn review(client: kube::Client, reader: Reader) -> (Reader, Option<bool>) {
    let namespace = &reader.namespace;
    let account = reader.account.as_deref().unwrap_or_default();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{account}")),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_string()),
                verb: Some("list".to_owned()),
                resource: Some("secrets".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client);
    let parameters = PostParams::default();
    let asked = reviews.create(&parameters, &review);
    let answer = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => answer.status.map(|status| status.allowed),
        Ok(Err(error)) => {
            warn!(?reader, %error, "whether a proxy may read Secrets could not be asked");
            None
        }
        Err(_) => {
            warn!(?reader, "whether a proxy may read Secrets is not answered");
            None
        }
    };
    (reader, answer)
}

/// What has been read and answered.
#[derive(Debug, Default)]
struct Known {
    read: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Material>>>,
    answers: BTreeMap<Reader, Answer>,
    changed: bool,
}

#[derive(Debug)]
struct Answer {
    allowed: Option<bool>,
    /// When to ask again; `None` while it is being asked.
    again: Option<Instant>,
}

impl Known {
    /// Whether to ask about a reader now; if so, it counts as being asked.
    fn is_due(&mut self, reader: &Reader, now: Instant) -> bool {
        let answer = self.answers.entry(reader.clone()).or_insert(Answer {
            allowed: None,
            again: Some(now),
        });
        let due = answer.again.is_some_and(|again| again <= now);
        if due {
            answer.again = None;
        }
        due
    }

    fn next_question(&self) -> Option<Instant> {
        self.answers
            .values()
            .filter_map(|answer| answer.again)
            .min()
    }

    fn answered(&mut self, reader: Reader, said: Option<bool>, now: Instant) {
        let holds = match said {
            Some(true) => PERMITTED,
            Some(false) => REFUSED,
            None => UNANSWERED,
        };
        if said == Some(false) {
            debug!(?reader, "may not read Secrets");
        }
        let answer = self.answers.entry(reader).or_insert(Answer {
            allowed: None,
            again: None,
        });
        answer.again = Some(now + holds);
        if said.is_some() && answer.allowed != said {
            answer.allowed = said;
            self.changed = true;
        }
    }

    fn read(&mut self, namespace: Arc<str>, news: News) {
        let before = self.read.get(&namespace);
        match news {
            News::All(all) => {
                self.changed |= before != Some(&all);
                self.read.insert(namespace, all);
            }
            News::One(name, Some(material)) => {
                let known = before.and_then(|secrets| secrets.get(&name));
                self.changed |= known != Some(&material);
                self.read
                    .entry(namespace)
                    .or_default()
                    .insert(name, material);
            }
            News::One(name, None) => {
                let gone = self
                    .read
                    .get_mut(&namespace)
                    .and_then(|secrets| secrets.remove(&name));
                self.changed |= gone.is_some();
            }
        }
    }

    fn secrets(&self) -> Secrets {
        let keys = self.read.iter().map(|(namespace, secrets)| {
            let answers = self.answers.iter();
            let own = answers.filter(|(reader, _)| reader.namespace == *namespace);
            let keys = Keys {
                secrets: secrets.clone(),
                readers: own
                    .filter_map(|(reader, answer)| Some((reader.account.clone()?, answer.allowed?)))
                    .collect(),
            };
            (Arc::clone(namespace), Arc::new(keys))
        });
        Secrets {
            namespaces: keys.collect(),
        }
    }
}

#[cfg(test)]
mod tests;
