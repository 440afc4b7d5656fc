//! What was found wrong with an object: where, what, why, and what to write instead.

use std::fmt;

use serde_json::Value;

use crate::analyze::Code;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `spec.http[0].timeout`.
    pub path: String,
    /// What stands there, shortened; `None` where nothing does.
    pub value: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    pub fix: Option<String>,
    /// The analyzer's code, where it has one more precise than "schema error" or "schema warning".
    pub code: Option<Code>,
}

impl Problem {
    /// The finding without its field.
    #[must_use]
    pub fn text(&self) -> String {
        let value = self.value.as_ref().map(|value| format!("{value}: "));
        let fix = self.fix.as_ref().map(|fix| format!("; {fix}"));
        let (value, fix) = (value.unwrap_or_default(), fix.unwrap_or_default());
        format!("{value}{}{fix}", self.reason)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text())
    }
}

/// All findings about an object. Errors refuse it, warnings let it pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Report {
    /// Whether the object may pass.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds an error at `path`; the returned problem takes a value and a fix.
    pub fn error(&mut self, path: impl Into<String>, reason: impl Into<String>) -> Finding<'_> {
        Finding::push(&mut self.errors, path.into(), reason.into())
    }

    /// Adds a warning at `path`; the returned problem takes a value and a fix.
    pub fn warn(&mut self, path: impl Into<String>, reason: impl Into<String>) -> Finding<'_> {
        Finding::push(&mut self.warnings, path.into(), reason.into())
    }

    /// All errors in one line, for a refusal's message.
    #[must_use]
    pub fn summary(&self) -> String {
        let errors: Vec<String> = self.errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    }
}

/// A finding just added, to be completed in place.
#[derive(Debug)]
pub struct Finding<'a>(Option<&'a mut Problem>);

impl<'a> Finding<'a> {
    fn push(list: &'a mut Vec<Problem>, path: String, reason: String) -> Self {
        list.push(Problem {
            path,
            value: None,
            reason,
            fix: None,
            code: None,
        });
        Self(list.last_mut())
    }

    /// Names the value found, as text.
    #[must_use = "the finding is already in the report; call for its effect with `.fix` or drop it"]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        if let Some(problem) = &mut self.0 {
            problem.value = Some(shorten(&value.to_string()));
        }
        self
    }

    /// Gives the finding a code of its own.
    #[must_use = "the finding is already in the report; call for its effect with `.fix` or drop it"]
    pub fn code(mut self, code: Code) -> Self {
        if let Some(problem) = &mut self.0 {
            problem.code = Some(code);
        }
        self
    }

    /// Names what to write instead.
    pub fn fix(self, fix: impl Into<String>) {
        if let Some(problem) = self.0 {
            problem.fix = Some(fix.into());
        }
    }

    /// The finding has no fix to name.
    pub fn done(self) {}
}

const LONGEST_VALUE: usize = 80;

/// A JSON value as it appears in messages.
#[must_use]
pub fn show(value: &Value) -> String {
    shorten(&value.to_string())
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= LONGEST_VALUE {
        return text.to_owned();
    }
    let kept: String = text.chars().take(LONGEST_VALUE).collect();
    format!("{kept}…")
}
