//! The `status` of an Istio object: whether it is accepted, what of it has no effect, and on how
//! many proxies it is active.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::analyze::{Code, Level, Message};
use crate::lower::{NotHonoured, Refused};

/// Where the messages are explained.
const DOCUMENTATION: &str = "https://istio.io/latest/docs/reference/config/analysis/";
/// Longest condition message; the rest is counted.
const MOST_LISTED: usize = 5;

/// All there is to say about one object.
#[derive(Debug, Clone, Default)]
pub struct Outcome<'a> {
    /// `metadata.generation` of what was looked at.
    pub generation: i64,
    /// Why the object has no effect at all.
    pub refused: Option<&'a Refused>,
    pub not_honoured: &'a [NotHonoured],
    pub messages: &'a [Message],
    /// `None` where no proxy has been asked yet.
    pub progress: Option<Progress>,
}

/// How far the object's configuration has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Proxies that have acknowledged it.
    pub active: usize,
    /// Proxies that should.
    pub of: usize,
    /// From the change to the last acknowledgement, once all have.
    pub took: Option<Duration>,
    /// Proxies that refused it, and why.
    pub rejections: Vec<String>,
}

/// Builds the status over the one that stands (`Null` if none), at `now` (RFC 3339): what did not
/// change keeps its time, and fields of other writers stay. So equal outcomes give equal bytes.
#[must_use]
pub fn status(outcome: &Outcome<'_>, previous: &Value, now: &str) -> Value {
    let mut status = match previous {
        Value::Object(fields) => fields.clone(),
        _ => Map::new(),
    };
    let before = previous
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut conditions = vec![accepted(outcome), honoured(outcome)];
    let progress = outcome.progress.as_ref();
    conditions.extend(progress.map(|progress| reconciled(outcome, progress)));
    let mut written: Vec<Value> = conditions
        .iter()
        .map(|condition| condition.write(&before, outcome.generation, now))
        .collect();
    let ours: Vec<&str> = [ACCEPTED, HONOURED, RECONCILED].to_vec();
    written.extend(before.into_iter().filter(|condition| {
        let name = condition
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        !ours.contains(&name)
    }));
    status.insert("observedGeneration".into(), outcome.generation.into());
    status.insert("conditions".into(), written.into());
    // Written even when empty: a merge patch would leave what stands there.
    status.insert(
        "validationMessages".into(),
        validation_messages(outcome).into(),
    );
    Value::Object(status)
}

const ACCEPTED: &str = "Accepted";
const HONOURED: &str = "Honoured";
/// Istio's name for "the proxies have it".
const RECONCILED: &str = "Reconciled";

struct Condition {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn write(&self, before: &[Value], generation: i64, now: &str) -> Value {
        let value = if self.holds { "True" } else { "False" };
        let same = before.iter().find(|old| {
            old.get("type").is_some_and(|name| name == self.name)
                && old.get("status").is_some_and(|status| status == value)
        });
        let since = same
            .and_then(|old| old.get("lastTransitionTime")?.as_str())
            .unwrap_or(now);
        json!({
            "type": self.name,
            "status": value,
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        })
    }
}

fn accepted(outcome: &Outcome<'_>) -> Condition {
    let errors: Vec<String> = outcome
        .messages
        .iter()
        .filter(|message| message.level() == Level::Error)
        .map(|message| format!("[{}] {}", message.code.as_str(), message.text))
        .collect();
    let (holds, reason, message) = match outcome.refused {
        Some(refused) => (
            false,
            "Refused",
            format!("{}: {}", refused.path, refused.reason),
        ),
        None if errors.is_empty() => (true, "Valid", "the object is in force".to_owned()),
        None => (
            true,
            "HasErrors",
            format!("the object is in force, but: {}", listed(&errors)),
        ),
    };
    Condition {
        name: ACCEPTED,
        holds,
        reason,
        message,
    }
}

fn honoured(outcome: &Outcome<'_>) -> Condition {
    let gaps: Vec<String> = outcome
        .not_honoured
        .iter()
        .map(ToString::to_string)
        .collect();
    let (holds, reason, message) = match (outcome.refused, gaps.is_empty()) {
        (Some(_), _) => (
            false,
            "Refused",
            "nothing of the object has an effect".to_owned(),
        ),
        (None, true) => (true, "AllFields", "every field has its effect".to_owned()),
        (None, false) => (false, "FieldsNotHonoured", listed(&gaps)),
    };
    Condition {
        name: HONOURED,
        holds,
        reason,
        message,
    }
}

fn reconciled(outcome: &Outcome<'_>, progress: &Progress) -> Condition {
    if outcome.refused.is_some() {
        return Condition {
            name: RECONCILED,
            holds: false,
            reason: "Refused",
            message: "no proxy has it".to_owned(),
        };
    }
    let count = format!("active on {}/{} proxies", progress.active, progress.of);
    if !progress.rejections.is_empty() {
        return Condition {
            name: RECONCILED,
            holds: false,
            reason: "RejectedByProxy",
            message: format!("{count}; rejected: {}", listed(&progress.rejections)),
        };
    }
    let done = progress.active >= progress.of;
    let took = progress
        .took
        .filter(|_| done)
        .map(|time| format!(", {} ms", time.as_millis()));
    Condition {
        name: RECONCILED,
        holds: done,
        reason: if done { "Active" } else { "InProgress" },
        message: format!("{count}{}", took.unwrap_or_default()),
    }
}

/// What a status says about how far that generation of the object has got; the other way round from
/// [`status`]. `None` where nothing has been said about it. Of rejections only their number would be
/// known, so none are given.
#[must_use]
pub fn progress(status: &Value, generation: i64) -> Option<Progress> {
    let conditions = status.get("conditions")?.as_array()?;
    let said = conditions.iter().find(|c| {
        c.get("type").is_some_and(|name| name == RECONCILED)
            && c.get("observedGeneration").and_then(Value::as_i64) == Some(generation)
    })?;
    let message = said.get("message")?.as_str()?;
    let (active, rest) = message.strip_prefix("active on ")?.split_once('/')?;
    let (of, rest) = rest.split_once(" proxies")?;
    let took = rest
        .strip_prefix(", ")
        .and_then(|rest| rest.strip_suffix(" ms"));
    Some(Progress {
        active: active.parse().ok()?,
        of: of.parse().ok()?,
        took: took
            .and_then(|ms| ms.parse().ok())
            .map(Duration::from_millis),
        rejections: Vec::new(),
    })
}

fn listed(texts: &[String]) -> String {
    let shown: Vec<&str> = texts.iter().take(MOST_LISTED).map(String::as_str).collect();
    let rest = texts.len().saturating_sub(MOST_LISTED);
    let rest = if rest > 0 {
        format!("; and {rest} more")
    } else {
        String::new()
    };
    format!("{}{rest}", shown.join("; "))
}

/// The analyzer's messages, and one for each field that has no effect.
fn validation_messages(outcome: &Outcome<'_>) -> Vec<Value> {
    let said = outcome
        .messages
        .iter()
        .map(|m| validation_message(m.code, m.field.as_deref(), &m.text));
    let gaps = outcome
        .not_honoured
        .iter()
        .map(|gap| validation_message(Code::FieldNotHonoured, Some(&gap.path), &gap.why));
    let refused = outcome.refused.map(|refused| {
        validation_message(Code::KindNotHonoured, Some(&refused.path), &refused.reason)
    });
    said.chain(refused).chain(gaps).collect()
}

fn validation_message(code: Code, field: Option<&str>, text: &str) -> Value {
    let level = match code.level() {
        Level::Error => "ERROR",
        Level::Warning => "WARNING",
        Level::Info => "INFO",
    };
    let mut value = json!({
        "type": { "code": code.as_str(), "name": code.name() },
        "level": level,
        "message": text,
    });
    if code.as_str().starts_with("IST") {
        let page = code.as_str().to_ascii_lowercase();
        value["documentationUrl"] = format!("{DOCUMENTATION}{page}/").into();
    }
    if let Some(field) = field {
        value["field"] = field.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(status: &Value) -> Vec<String> {
        let text = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_owned();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .map(|c| {
                format!(
                    "{}={} {} {}",
                    text(c, "type"),
                    text(c, "status"),
                    text(c, "lastTransitionTime"),
                    text(c, "message")
                )
            })
            .collect()
    }

    #[test]
    fn progress_is_read_back_as_it_was_written() {
        for (active, of, took) in [(3, 3, Some(35)), (2, 3, None), (0, 0, None)] {
            let progress = Progress {
                active,
                of,
                took: took.map(Duration::from_millis),
                rejections: Vec::new(),
            };
            let outcome = Outcome {
                generation: 7,
                progress: Some(progress.clone()),
                ..Outcome::default()
            };
            let status = status(&outcome, &Value::Null, "2026-01-01T00:00:00Z");
            assert_eq!(super::progress(&status, 7), Some(progress));
            assert_eq!(super::progress(&status, 8), None);
        }
    }

    #[test]
    fn the_status_tells_how_far_a_change_has_got() {
        let mut outcome = Outcome {
            generation: 3,
            progress: Some(Progress {
                active: 23,
                of: 24,
                ..Progress::default()
            }),
            ..Outcome::default()
        };
        let first = status(
            &outcome,
            &json!({"addresses": [1], "conditions": [{"type": "Other"}]}),
            "t1",
        );
        assert_eq!(
            lines(&first),
            [
                "Accepted=True t1 the object is in force",
                "Honoured=True t1 every field has its effect",
                "Reconciled=False t1 active on 23/24 proxies",
                "Other=  ",
            ]
        );
        outcome.progress = Some(Progress {
            active: 24,
            of: 24,
            took: Some(Duration::from_millis(140)),
            rejections: Vec::new(),
        });
        let second = status(&outcome, &first, "t2");
        assert_eq!(
            lines(&second),
            [
                "Accepted=True t1 the object is in force",
                "Honoured=True t1 every field has its effect",
                "Reconciled=True t2 active on 24/24 proxies, 140 ms",
                "Other=  ",
            ]
        );
        assert_eq!(second["addresses"], json!([1]));
        assert_eq!(second["observedGeneration"], 3);
        assert_eq!(
            status(&outcome, &second, "t3"),
            second,
            "nothing new, nothing written"
        );
    }

    #[test]
    fn fields_without_effect_are_listed() {
        let gaps: Vec<NotHonoured> = (0..7)
            .map(|n| NotHonoured {
                path: format!("spec.x{n}"),
                why: "not yet".into(),
            })
            .collect();
        let outcome = Outcome {
            not_honoured: &gaps,
            ..Outcome::default()
        };
        let written = status(&outcome, &Value::Null, "t");
        assert_eq!(
            written["validationMessages"][0],
            json!({"type": {"code": "MAL0001", "name": "FieldNotHonoured"}, "level": "WARNING",
                "field": "spec.x0", "message": "not yet"})
        );
        let text = lines(&written).remove(1);
        assert!(
            text.starts_with("Honoured=False t spec.x0: not yet; "),
            "{text}"
        );
        assert!(text.ends_with("; and 2 more"), "{text}");
    }
    #[test]
    fn what_is_refused_is_active_nowhere() {
        let object = malla_model::ObjectRef::new("EnvoyFilter", "base", "ef");
        let refused = Refused {
            object,
            path: "spec".into(),
            reason: "not yet".into(),
        };
        let outcome = Outcome {
            refused: Some(&refused),
            progress: Some(Progress {
                active: 9,
                of: 9,
                ..Progress::default()
            }),
            ..Outcome::default()
        };
        let written = lines(&status(&outcome, &Value::Null, "t"));
        assert_eq!(
            written,
            [
                "Accepted=False t spec: not yet",
                "Honoured=False t nothing of the object has an effect",
                "Reconciled=False t no proxy has it",
            ]
        );
    }
}
