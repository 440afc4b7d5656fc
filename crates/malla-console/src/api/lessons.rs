//! The lessons: shown with their lights, done for the user, and taken back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::objects::{allow, remove, write};
use crate::auth::User;
use crate::cluster::Address;
use crate::error::{ApiError, Code};
use crate::history::Author;
use crate::lessons::{Lesson, Step, lesson};
use crate::mirror::Watched;
use crate::server::App;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let Some(lessons) = &app.lessons else {
        return Json(json!([]));
    };
    let lights = lessons.lights(&app.cluster, &app.mirror).await;
    Json(
        lights
            .iter()
            .map(|(lesson, light)| lesson.described(light))
            .collect(),
    )
}

/// `q3:apply` or `q3:revert`.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(user): Extension<User>,
    Path(action): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let (id, verb) = action.split_once(':').unwrap_or((&action, ""));
    let found = lesson(id).filter(|_| app.lessons.is_some());
    let lesson = found.ok_or_else(|| ApiError::not_found(format!("there is no lesson {id:?}")))?;
    let steps = match verb {
        "apply" => lesson.apply()?,
        "revert" => lesson.revert()?.ok_or_else(|| {
            ApiError::new(
                Code::Conflict,
                "the other lessons need what this one brings",
            )
            .fix("stop the demo to remove it")
        })?,
        _ => {
            return Err(ApiError::not_found(format!(
                "a lesson takes :apply and :revert, not {action:?}"
            )));
        }
    };
    let changes = run(&app, &user, lesson, verb, steps).await?;
    Ok(Json(json!({ "changes": changes })))
}

async fn run(
    app: &App,
    user: &User,
    lesson: &Lesson,
    verb: &str,
    steps: Vec<Step>,
) -> Result<Vec<String>, ApiError> {
    let author = Author {
        who: user.name.clone(),
        note: Some(format!("lesson {}, {verb}", lesson.id)),
    };
    for step in &steps {
        let verb = if matches!(step, Step::Put(_)) {
            "update"
        } else {
            "delete"
        };
        allow(app, user, verb, &Address::of(step.object())?).await?;
    }
    let mut changes = Vec::new();
    for step in steps {
        let address = Address::of(step.object())?;
        let istio = matches!(address.watched, Watched::Istio(_));
        match step {
            Step::Put(object) if istio => {
                changes.extend(write(app, &address, &object, &author).await?)
            }
            Step::Put(object) => app.cluster.apply(&address, &object).await?,
            Step::Remove(_) => match removed(app, &address, istio, &author).await {
                Ok(id) => changes.extend(id),
                // Gone is what it should be.
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => return Err(error),
            },
        }
    }
    Ok(changes)
}

async fn removed(
    app: &App,
    address: &Address,
    istio: bool,
    author: &Author,
) -> Result<Option<String>, ApiError> {
    if istio {
        return remove(app, address, author).await;
    }
    app.cluster.delete(address).await.map(|()| None)
}
