//! The history of changes, and taking one back.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::objects::{allow, istio, remove, write};
use crate::auth::User;
use crate::error::{ApiError, Code};
use crate::history::{Author, Change};
use crate::server::App;
use crate::yaml::documents;

/// Most changes in one answer.
const MOST: usize = 500;

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Filter {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

impl Filter {
    fn picks(&self, change: &Change) -> bool {
        let picks = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        picks(&self.kind, &change.kind)
            && picks(&self.namespace, &change.namespace)
            && picks(&self.name, &change.name)
    }
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Query(filter): Query<Filter>,
) -> Json<Vec<Change>> {
    Json(app.history.list(MOST, |change| filter.picks(change)).await)
}

pub(crate) async fn undo(
    State(app): State<Arc<App>>,
    Extension(user): Extension<User>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let change = app.history.get(&id).await;
    let change = change.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no change {id:?} (the oldest are forgotten)"
        ))
    })?;
    let text = change
        .before
        .as_ref()
        .or(change.after.as_ref())
        .ok_or_else(|| {
            ApiError::new(
                Code::Internal,
                format!("change {id} says neither what was nor what is"),
            )
        })?;
    let object = documents(text)?.into_iter().next();
    let object = object
        .ok_or_else(|| ApiError::new(Code::Internal, format!("change {id} is empty")))?
        .value;
    let address = istio(&object)?;
    let author = Author {
        who: user.name.clone(),
        note: Some(format!("undo of change {id}")),
    };
    let made = match change.before {
        Some(_) => {
            allow(&app, &user, "update", &address).await?;
            write(&app, &address, &object, &author).await?
        }
        None => {
            allow(&app, &user, "delete", &address).await?;
            remove(&app, &address, &author).await?
        }
    };
    Ok(Json(
        json!({"changes": made.into_iter().collect::<Vec<_>>()}),
    ))
}
