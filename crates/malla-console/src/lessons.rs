//! The demo's lessons: what each is about, what it applies, and whether the mesh really behaves so.
//!
//! A light is green only after the lesson's objects were found in the cluster as they should be and
//! real requests (or the clients' own logs) showed the effect. Requests are sent only for lessons
//! whose objects are there, and only while somebody looks.

mod light;
mod probe;
mod text;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use malla_runtime::task::AbortOnDrop;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info_span;

use crate::cluster::{Address, Cluster};
use crate::error::ApiError;
use crate::mirror::Mirror;
use crate::yaml::documents;

pub(crate) use light::Light;
pub(crate) use text::LESSONS;

/// Lights older than this are looked at again when somebody asks.
const FRESH: Duration = Duration::from_secs(4);

/// English and Chinese.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Both(pub(crate) &'static str, pub(crate) &'static str);

impl Both {
    fn json(self) -> Value {
        json!({"en": self.0, "zh": self.1})
    }
}

/// One lesson.
#[derive(Debug)]
pub(crate) struct Lesson {
    pub(crate) id: &'static str,
    /// In `demo/lessons`.
    file: &'static str,
    yaml: &'static str,
    title: Both,
    text: Both,
    steps: &'static [Both],
    /// What the others cannot do without is not taken away.
    removable: bool,
}

/// One thing to do for a lesson.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Put(Value),
    Remove(Value),
}

impl Step {
    pub(crate) fn object(&self) -> &Value {
        match self {
            Self::Put(object) | Self::Remove(object) => object,
        }
    }
}

/// The lesson of that id.
pub(crate) fn lesson(id: &str) -> Option<&'static Lesson> {
    LESSONS.iter().find(|lesson| lesson.id == id)
}

impl Lesson {
    /// What it brings into the cluster.
    pub(crate) fn objects(&self) -> Result<Vec<Value>, ApiError> {
        Ok(documents(self.yaml)?
            .into_iter()
            .map(|document| document.value)
            .collect())
    }

    pub(crate) fn apply(&self) -> Result<Vec<Step>, ApiError> {
        Ok(self.objects()?.into_iter().map(Step::Put).collect())
    }

    /// Takes its objects away, the last first; an object an earlier lesson brought gets that form
    /// back. `None` if it may not be taken back.
    pub(crate) fn revert(&self) -> Result<Option<Vec<Step>>, ApiError> {
        if !self.removable {
            return Ok(None);
        }
        let mut before = Vec::new();
        for lesson in LESSONS.iter().take_while(|lesson| lesson.id != self.id) {
            before.extend(lesson.objects()?);
        }
        let mut steps = Vec::new();
        for object in self.objects()?.into_iter().rev() {
            let address = Address::of(&object)?;
            let same = |other: &&Value| Address::of(other).is_ok_and(|other| other == address);
            steps.push(match before.iter().rev().find(same) {
                Some(earlier) => Step::Put(earlier.clone()),
                None => Step::Remove(object),
            });
        }
        Ok(Some(steps))
    }

    pub(crate) fn described(&self, light: &Light) -> Value {
        json!({
            "id": self.id, "title": self.title.json(), "text": self.text.json(),
            "kubectl": [format!("kubectl apply -f demo/lessons/{}.yaml", self.file)],
            "yaml": self.yaml,
            "steps": self.steps.iter().map(|step| step.json()).collect::<Vec<_>>(),
            "light": light.state.name(), "why": {"en": light.en, "zh": light.zh},
        })
    }
}

/// The lights, kept while somebody looks.
#[derive(Debug, Default)]
pub(crate) struct Lessons {
    board: Arc<Mutex<Board>>,
    looking: Mutex<Option<AbortOnDrop<()>>>,
}

#[derive(Debug, Default)]
struct Board {
    at: Option<Instant>,
    lights: Vec<Light>,
}

impl Lessons {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The lights as they were last seen. Looks again where that is some time ago; a slow lesson
    /// must not keep the page waiting, so its news come as an event.
    pub(crate) async fn lights(
        &self,
        cluster: &Cluster,
        mirror: &Arc<Mirror>,
    ) -> Vec<(&'static Lesson, Light)> {
        let stale = lock(&self.board).at.is_none_or(|at| at.elapsed() > FRESH);
        if stale {
            let mut looking = lock(&self.looking);
            if looking.as_ref().is_none_or(AbortOnDrop::is_finished) {
                let look = look(Arc::clone(&self.board), cluster.clone(), Arc::clone(mirror));
                *looking = Some(AbortOnDrop::spawn(info_span!("lessons"), look));
            }
        }
        let board = lock(&self.board);
        let light = |at: usize| board.lights.get(at).cloned().unwrap_or_else(Light::unseen);
        LESSONS
            .iter()
            .enumerate()
            .map(|(at, lesson)| (lesson, light(at)))
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at every lesson once; each light counts as soon as it is known.
async fn look(board: Arc<Mutex<Board>>, cluster: Cluster, mirror: Arc<Mirror>) {
    lock(&board)
        .lights
        .resize_with(LESSONS.len(), Light::unseen);
    let looks = LESSONS.iter().enumerate().map(|(at, lesson)| {
        let (board, cluster, mirror) = (&board, &cluster, &mirror);
        async move {
            let light = light::of(lesson, cluster, mirror).await;
            let mut board = lock(board);
            let Some(slot) = board.lights.get_mut(at) else {
                return;
            };
            if slot.state != light.state {
                mirror.publish(
                    "lesson",
                    json!({"id": lesson.id, "light": light.state.name()}),
                );
            }
            *slot = light;
        }
    });
    futures_util::future::join_all(looks).await;
    lock(&board).at = Some(Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lesson_can_be_applied_and_taken_back() {
        for lesson in LESSONS {
            for object in lesson.objects().unwrap() {
                Address::of(&object).unwrap();
            }
            assert_eq!(
                lesson.revert().unwrap().is_some(),
                !["q0", "q1"].contains(&lesson.id),
                "{}",
                lesson.id
            );
            for both in [lesson.title, lesson.text].iter().chain(lesson.steps) {
                assert!(
                    !both.0.is_empty() && !both.1.is_ascii(),
                    "{}: {}",
                    lesson.id,
                    both.0
                );
            }
        }
    }

    #[test]
    fn taking_back_restores_what_an_earlier_lesson_wrote() {
        let steps = lesson("q5").unwrap().revert().unwrap().unwrap();
        let [Step::Put(rule)] = &steps[..] else {
            panic!("{steps:?}")
        };
        assert_eq!(
            rule.pointer("/spec/http/0/route/0/weight"),
            Some(&json!(50))
        );
        let steps = lesson("q9").unwrap().revert().unwrap().unwrap();
        let kinds: Vec<_> = steps
            .iter()
            .map(|s| {
                (
                    matches!(s, Step::Remove(_)),
                    s.object()["kind"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            kinds,
            [(true, "Service"), (true, "Deployment"), (true, "Namespace")]
        );
    }
}
