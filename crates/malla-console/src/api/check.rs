//! What applying a text would do: our own validation with the lines, the API server's dry run, and
//! the analyzer on the world as it would be. Changes nothing.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Body;
use super::objects::{allow, istio};
use crate::auth::User;
use crate::error::{ApiError, Code};
use crate::findings::finding;
use crate::mirror::Watched;
use crate::server::App;
use crate::yaml::{Document, documents, print};

#[derive(Debug, Deserialize)]
pub(crate) struct CheckRequest {
    yaml: String,
}

/// What is said about all documents.
#[derive(Debug, Default)]
struct Verdict {
    errors: Vec<Value>,
    before: Vec<String>,
    after: Vec<String>,
    objects: Vec<Value>,
}

pub(crate) async fn check(
    State(app): State<Arc<App>>,
    Extension(user): Extension<User>,
    Body(request): Body<CheckRequest>,
) -> Result<Json<Value>, ApiError> {
    let mut verdict = Verdict::default();
    match documents(&request.yaml) {
        Ok(documents) if documents.is_empty() => verdict
            .errors
            .push(json!({"path": "", "message": "there is no object in it"})),
        Ok(documents) => {
            for document in &documents {
                judge(&app, &user, document, &mut verdict).await?;
            }
        }
        Err(error) => {
            let mut said = json!({"path": "", "message": error.message});
            said["line"] = error.line.map_or_else(|| json!(1), |line| json!(line));
            verdict.errors.push(said);
        }
    }
    let messages = match verdict.errors.is_empty() {
        true => app.analyzer.would_say(&app.mirror, verdict.objects).await,
        false => Vec::new(), // It would repeat the errors.
    };
    let findings: Vec<Value> = messages
        .iter()
        .map(|message| finding(message, true))
        .collect();
    Ok(Json(json!({
        "ok": verdict.errors.is_empty(),
        "errors": verdict.errors,
        "findings": findings,
        "diff": {"before": verdict.before.join("---\n"), "after": verdict.after.join("---\n")},
    })))
}

async fn judge(
    app: &App,
    user: &User,
    document: &Document,
    verdict: &mut Verdict,
) -> Result<(), ApiError> {
    let address = match istio(&document.value) {
        Ok(address) => address,
        Err(error) => {
            verdict.errors.push(said(document, &error));
            return Ok(());
        }
    };
    allow(app, user, "get", &address).await?;
    let present = app.cluster.get(&address).await?;
    verdict
        .before
        .extend(present.map(|object| print(&object.value)));
    if let Watched::Istio(kind) = address.watched {
        let report = malla_api::validate(kind, &document.value);
        let ours = report.errors.iter().map(|problem| {
            json!({"line": document.line_of(&problem.path), "path": problem.path, "message": problem.text()})
        });
        let errors: Vec<Value> = ours.collect();
        if !errors.is_empty() {
            // The webhook would say the same, without the lines.
            verdict.errors.extend(errors);
            return Ok(());
        }
    }
    match app.cluster.put(&address, &document.value, true).await {
        Ok(object) => verdict.after.push(print(&object.value)),
        Err(error) if error.code == Code::Unavailable => return Err(error),
        Err(error) => verdict.errors.push(said(document, &error)),
    }
    verdict.objects.push(document.value.clone());
    Ok(())
}

/// An error about a document, at its field if it names one.
fn said(document: &Document, error: &ApiError) -> Value {
    let path = error.field.clone().unwrap_or_default();
    let fix = error
        .fix
        .as_ref()
        .map(|fix| format!("; {fix}"))
        .unwrap_or_default();
    json!({"line": document.line_of(&path), "path": path, "message": format!("{}{fix}", error.message)})
}
