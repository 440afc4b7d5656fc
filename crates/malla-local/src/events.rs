//! Kubernetes Events: what `kubectl describe` shows at the bottom.
//!
//! Invariants: recording never waits and never fails its caller; the same news about the same
//! object becomes a count; the cluster keeps a bounded number of events.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_apiserver::{Client, DeleteParams, Patch, kinds};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// News waiting to be written; more are dropped.
const BACKLOG: usize = 1024;
/// Events kept; kube-apiserver keeps those of one hour.
const KEPT: usize = 2000;

/// Ordinary or alarming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// The object an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// E.g. `spec.containers{app}`.
    pub(crate) field: Option<String>,
}

impl Subject {
    pub(crate) fn new(api_version: &'static str, kind: &'static str, about: &ObjectMeta) -> Self {
        Self {
            api_version,
            kind,
            namespace: about.namespace.clone().unwrap_or_default(),
            name: about.name.clone().unwrap_or_default(),
            uid: about.uid.clone().unwrap_or_default(),
            field: None,
        }
    }

    pub(crate) fn at(mut self, field: String) -> Self {
        self.field = Some(field);
        self
    }
}

#[derive(Debug)]
struct News {
    component: &'static str,
    severity: Severity,
    subject: Subject,
    reason: &'static str,
    message: String,
}

/// Writes events in the background; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    news: mpsc::Sender<News>,
}

impl Recorder {
    /// Starts the writer, which ends with the last recorder.
    pub(crate) fn start(client: Client, node: String) -> (Self, AbortOnDropHandle<()>) {
        let (news, queue) = mpsc::channel(BACKLOG);
        let writer = Writer {
            client,
            node,
            known: BTreeMap::new(),
            order: VecDeque::new(),
            made: 0,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(writer.run(queue)));
        (Self { news }, task)
    }

    pub(crate) fn record(
        &self,
        component: &'static str,
        severity: Severity,
        subject: Subject,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let news = News {
            component,
            severity,
            subject,
            reason,
            message: message.into(),
        };
        if self.news.try_send(news).is_err() {
            tracing::debug!(reason, "an event was dropped: too many at once");
        }
    }
}

type Identity = (Subject, &'static str, String);

struct Writer {
    client: Client,
    node: String,
    known: BTreeMap<Identity, (String, u32)>,
    order: VecDeque<Identity>,
    made: u64,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<News>) {
        while let Some(news) = queue.recv().await {
            self.write(news).await;
        }
    }

    async fn write(&mut self, news: News) {
        let identity = (news.subject.clone(), news.reason, news.message.clone());
        let now = Timestamp::now();
        if let Some((name, count)) = self.known.get_mut(&identity) {
            *count += 1;
            let again = Patch::Merge(json!({"count": *count, "lastTimestamp": seconds(now)}));
            let namespace = scope(&news.subject);
            let patched = self
                .client
                .patch(&kinds::EVENTS, Some(namespace), name, again)
                .await;
            if patched.is_ok() {
                return;
            }
        }
        self.made += 1;
        let name = format!(
            "{}.{:x}{:04x}",
            news.subject.name,
            now.as_nanosecond(),
            self.made
        );
        let event = self.event(&name, &news, now);
        let namespace = scope(&news.subject);
        match self
            .client
            .create(&kinds::EVENTS, Some(namespace), event)
            .await
        {
            Ok(_) => {
                self.known.insert(identity.clone(), (name, 1));
                self.order.push_back(identity);
                self.forget_oldest().await;
            }
            // A namespace that is being deleted takes no events.
            Err(error) => tracing::debug!(error = error.message(), "an event was not written"),
        }
    }

    fn event(&self, name: &str, news: &News, now: Timestamp) -> Value {
        let subject = &news.subject;
        let mut involved = json!({
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "name": subject.name,
            "uid": subject.uid,
        });
        if !subject.namespace.is_empty() {
            involved["namespace"] = json!(subject.namespace);
        }
        if let Some(field) = &subject.field {
            involved["fieldPath"] = json!(field);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": scope(subject)},
            "involvedObject": involved,
            "reason": news.reason,
            "message": news.message,
            "type": match news.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            },
            "source": {"component": news.component, "host": self.node},
            "reportingComponent": news.component,
            "reportingInstance": self.node,
            "firstTimestamp": seconds(now),
            "lastTimestamp": seconds(now),
            "count": 1,
        })
    }

    async fn forget_oldest(&mut self) {
        while self.order.len() > KEPT {
            let Some(identity) = self.order.pop_front() else {
                return;
            };
            if let Some((name, _)) = self.known.remove(&identity) {
                let namespace = scope(&identity.0);
                let params = DeleteParams::default();
                let _already_gone = self
                    .client
                    .delete(&kinds::EVENTS, Some(namespace), &name, &params)
                    .await;
            }
        }
    }
}

/// Events about cluster-scoped objects live in `default`, as everywhere.
fn scope(subject: &Subject) -> &str {
    if subject.namespace.is_empty() {
        "default"
    } else {
        &subject.namespace
    }
}

/// `metav1.Time` has seconds only.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
