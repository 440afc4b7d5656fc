//! Watches over HTTP: one JSON line per event.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use malla_apimachinery::table::IncludeObject;
use serde_json::{Value, json};

use super::Exchange;
use super::accept::Form;
use super::respond::{self, Body};
use crate::error::ApiError;
use crate::rest::Target;
use crate::rest::read::ListOptions;
use crate::rest::watch::{self, Event, WatchOptions};

/// Starts a watch.
pub(super) fn serve(
    exchange: &Exchange,
    target: Target,
    list: ListOptions,
) -> Result<Response<Body>, ApiError> {
    let (form, _) = exchange.accept.negotiate()?;
    let options = options(exchange, list)?;
    let lines = Lines {
        form,
        include: respond::include(exchange)?,
        target: target.clone(),
        definitions: true,
        clock: exchange.core.config.clock,
    };
    let events = watch::watch(&exchange.core, target, options)?;
    let lines = lines.over(events);
    let stopping = exchange.stopping.clone();
    let lines = lines.take_until(async move { stopping.cancelled_owned().await });
    let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
    Ok(respond::stream(
        "application/json",
        StreamBody::new(frames).boxed_unsync(),
    ))
}

fn options(exchange: &Exchange, list: ListOptions) -> Result<WatchOptions, ApiError> {
    let query = &exchange.query;
    let version = query.resource_version()?;
    let matching = query.get("resourceVersionMatch");
    let initial = query.flag("sendInitialEvents");
    let sent = !query.get("sendInitialEvents").is_empty();
    if sent && matching != "NotOlderThan" {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if !sent && !matching.is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    let bookmarks = query.flag("allowWatchBookmarks");
    let from = match version {
        // sendInitialEvents: what there is first, whatever version the client has seen.
        _ if initial => None,
        None | Some(0) if sent => Some(exchange.core.store.read().version()),
        // Version 0 is "any": what there is, then changes.
        None | Some(0) => None,
        Some(version) => Some(version),
    };
    let list = ListOptions {
        version: version.filter(|_| initial),
        ..list
    };
    Ok(WatchOptions {
        list,
        from,
        initial_bookmark: initial && bookmarks,
        bookmarks,
        timeout: query.timeout()?,
    })
}

struct Lines {
    form: Form,
    include: IncludeObject,
    target: Target,
    /// The next table carries column definitions: only the first does.
    definitions: bool,
    clock: fn() -> jiff::Timestamp,
}

impl Lines {
    fn over(
        mut self,
        events: impl Stream<Item = Result<Event, ApiError>> + Send + 'static,
    ) -> impl Stream<Item = String> + Send + 'static {
        events.map(move |event| self.line(event))
    }

    fn line(&mut self, event: Result<Event, ApiError>) -> String {
        let (kind, object) = match event {
            Ok(Event::Added(object)) => ("ADDED", self.show(&object)),
            Ok(Event::Modified(object)) => ("MODIFIED", self.show(&object)),
            Ok(Event::Deleted(object)) => ("DELETED", self.show(&object)),
            Ok(Event::Bookmark {
                version,
                initial_end,
            }) => ("BOOKMARK", self.bookmark(version, initial_end)),
            Err(error) => ("ERROR", error.to_status().to_string()),
        };
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    fn show(&mut self, object: &Value) -> String {
        match self.form {
            Form::Object => object.to_string(),
            Form::Metadata => respond::partial(object, "PartialObjectMetadata").to_string(),
            Form::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                self.table(&[object], metadata)
            }
        }
    }

    fn table(&mut self, objects: &[&Value], metadata: Value) -> String {
        let definitions = std::mem::replace(&mut self.definitions, false);
        let columns = &self.target.kind.columns;
        let table = columns.table(objects, metadata, self.include, (self.clock)(), definitions);
        table.to_string()
    }

    fn bookmark(&mut self, version: u64, initial_end: bool) -> String {
        let mut metadata =
            json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let kind = &self.target.kind;
        match self.form {
            Form::Object => json!({
                "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata,
            })
            .to_string(),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            })
            .to_string(),
            Form::Table => self.table(&[], metadata),
        }
    }
}
