//! What the analyzer says about the cluster as it is, and as it would be.
//!
//! Secrets are not read by the console, so what the analyzer would say about them is left out.

use std::sync::{Arc, Mutex, PoisonError};

use malla_api::analyze::Code;
use malla_api::{Message, World, analyze};
use malla_model::MeshSettings;
use serde_json::{Value, json};

use crate::mirror::{Mirror, Watched};

/// Keeps the newest analysis, since pages ask for it more often than the cluster changes.
#[derive(Debug, Default)]
pub(crate) struct Analyzer {
    latest: Mutex<Option<(u64, Arc<Vec<Message>>)>>,
}

impl Analyzer {
    /// Messages about the cluster as it is, the worst first.
    pub(crate) async fn messages(&self, mirror: &Arc<Mirror>) -> Arc<Vec<Message>> {
        let version = mirror.version();
        let latest = || self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, messages)) = latest().as_ref().filter(|(of, _)| *of == version) {
            debug_assert_eq!(*of, version);
            return Arc::clone(messages);
        }
        let messages = Arc::new(analyzed(Arc::clone(mirror), Vec::new()).await);
        *latest() = Some((version, Arc::clone(&messages)));
        messages
    }

    /// Messages about `objects` if they were applied.
    pub(crate) async fn would_say(
        &self,
        mirror: &Arc<Mirror>,
        objects: Vec<Value>,
    ) -> Vec<Message> {
        let theirs: Vec<(String, String, String)> = objects.iter().map(name_of).collect();
        let mut messages = analyzed(Arc::clone(mirror), objects).await;
        messages.retain(|message| {
            let subject = &message.subject;
            theirs.iter().any(|(kind, namespace, name)| {
                *kind == subject.kind && *name == subject.name && *namespace == subject.namespace
            })
        });
        messages
    }
}

fn name_of(object: &Value) -> (String, String, String) {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let namespace = text("/metadata/namespace");
    let namespace = if namespace.is_empty() {
        "default".to_owned()
    } else {
        namespace
    };
    (text("/kind"), namespace, text("/metadata/name"))
}

/// Off the workers: a large configuration takes its time.
async fn analyzed(mirror: Arc<Mirror>, more: Vec<Value>) -> Vec<Message> {
    let work = tokio::task::spawn_blocking(move || {
        let mut world = World {
            objects: Vec::new(),
            settings: MeshSettings::default(),
            revisions: Vec::new(),
        };
        for watched in Watched::all() {
            for object in mirror.list(watched) {
                world.add(object.value.clone());
            }
        }
        for object in more {
            world.add(object);
        }
        let mut messages = analyze(&world);
        messages.retain(|message| message.code != Code::InvalidGatewayCredential);
        messages
    });
    work.await.unwrap_or_default()
}

/// A message as the API gives it; `object` names what it is about where that is not clear.
pub(crate) fn finding(message: &Message, object: bool) -> Value {
    let mut finding = json!({
        "code": message.code.as_str(),
        "level": message.level().to_string(),
        "message": message.text,
    });
    if let Some(field) = &message.field {
        finding["path"] = json!(field);
    }
    if object {
        let subject = &message.subject;
        finding["object"] = match subject.namespace.as_str() {
            "" => json!(format!("{} {}", subject.kind, subject.name)),
            namespace => json!(format!("{} {namespace}/{}", subject.kind, subject.name)),
        };
    }
    finding
}

/// Messages about one object.
pub(crate) fn about(messages: &[Message], kind: &str, namespace: &str, name: &str) -> Vec<Value> {
    let theirs = messages.iter().filter(|message| {
        let subject = &message.subject;
        subject.kind == kind && subject.namespace == namespace && subject.name == name
    });
    theirs.map(|message| finding(message, false)).collect()
}
