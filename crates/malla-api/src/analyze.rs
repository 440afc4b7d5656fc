//! The analyzer: what single objects do not show, and a whole configuration does.
//!
//! A pure function of a [`World`] of raw objects, from a cluster or from files. Each check stands
//! in the file of what it looks at; none of them refuses anything. The annotation
//! `galley.istio.io/analyze-suppress` silences codes on an object, as in Istio.

mod annotations;
mod destination_rules;
mod gateways;
mod message;
mod namespaces;
mod policies;
mod services;
mod single;
mod virtual_services;
mod world;

use std::collections::BTreeMap;

pub use message::{Code, Level, Message, Source, Subject};
pub use world::{NotYaml, RawObject, World};

use world::{Known, subject};

/// Codes that are not wanted on an object: `IST0103,MAL0001` or `*`.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// Analyzes a configuration: the worst first, each message once.
#[must_use]
pub fn analyze(world: &World) -> Vec<Message> {
    let objects = world.latest();
    let known = Known::of(&objects, &world.settings);
    let mut out = Findings::default();
    for object in &objects {
        single::check(object, &world.settings, &mut out);
        annotations::check(object, &mut out);
    }
    virtual_services::check(&known, &world.settings, &mut out);
    destination_rules::check(&known, &world.settings, &mut out);
    gateways::check(&known, &mut out);
    namespaces::check(&known, world, &mut out);
    services::check(&known, &mut out);
    policies::check(&known, &world.settings, &mut out);
    let mut messages = out.messages;
    let silenced = suppressed(&objects);
    messages.retain(|message| {
        let codes = silenced.get(&message.subject);
        !codes.is_some_and(|codes| names(codes, message.code))
    });
    messages.sort_by(Message::order);
    messages.dedup();
    messages
}

/// Codes that are silenced, by object.
fn suppressed(objects: &[&RawObject]) -> BTreeMap<Subject, String> {
    let codes = |object: &RawObject| {
        let annotations = object.value.get("metadata")?.get("annotations")?;
        annotations.get(SUPPRESS)?.as_str().map(str::to_owned)
    };
    let silenced = objects
        .iter()
        .filter_map(|object| Some((subject(object), codes(object)?)));
    silenced.collect()
}

fn names(codes: &str, code: Code) -> bool {
    let mut codes = codes.split(',').map(str::trim);
    codes.any(|name| name == "*" || name == code.as_str())
}

/// Where checks put what they find.
#[derive(Debug, Default)]
struct Findings {
    messages: Vec<Message>,
}

impl Findings {
    fn add(&mut self, code: Code, subject: &Subject, text: impl Into<String>) {
        self.put(code, subject, None, text.into());
    }

    fn at(
        &mut self,
        code: Code,
        subject: &Subject,
        field: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.put(code, subject, Some(field.into()), text.into());
    }

    fn put(&mut self, code: Code, subject: &Subject, field: Option<String>, text: String) {
        self.messages.push(Message {
            code,
            subject: subject.clone(),
            field,
            text,
        });
    }

    /// Istio's most frequent message.
    fn not_found(&mut self, subject: &Subject, field: impl Into<String>, what: &str, name: &str) {
        let text = format!("Referenced {what} not found: {name:?}");
        self.at(Code::ReferencedResourceNotFound, subject, field, text);
    }
}
