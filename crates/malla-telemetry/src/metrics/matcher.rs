//! Label matchers: `=`, `!=`, `=~`, `!~`. Regular expressions are anchored at both ends.

use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::metrics::labels::Labels;

/// A pattern longer than this is refused.
const LONGEST_PATTERN: usize = 4096;
/// Bytes a compiled pattern may take.
const LARGEST_PROGRAM: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchOp {
    Equal,
    NotEqual,
    Regex,
    NotRegex,
}

impl MatchOp {
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// A pattern that isn't a regular expression, or is too large to be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {label}: {reason}")]
pub struct BadMatcher {
    label: String,
    reason: String,
}

/// One condition on one label. A label that is absent has the empty value.
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    test: Test,
}

#[derive(Clone)]
enum Test {
    Literal,
    /// `a|b|c` without any special character: cheaper than a regular expression.
    OneOf(Vec<String>),
    Pattern(Regex),
}

impl Matcher {
    /// # Errors
    /// When `op` takes a pattern and `value` is not one.
    pub fn new(
        name: impl Into<String>,
        op: MatchOp,
        value: impl Into<String>,
    ) -> Result<Self, BadMatcher> {
        let (name, value) = (name.into(), value.into());
        let test = match op {
            MatchOp::Equal | MatchOp::NotEqual => Test::Literal,
            MatchOp::Regex | MatchOp::NotRegex => compile(&value).map_err(|reason| BadMatcher {
                label: name.clone(),
                reason,
            })?,
        };
        Ok(Self {
            name,
            op,
            value,
            test,
        })
    }

    /// A matcher for one exact value.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            op: MatchOp::Equal,
            value: value.into(),
            test: Test::Literal,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn op(&self) -> MatchOp {
        self.op
    }

    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let found = match &self.test {
            Test::Literal => value == self.value,
            Test::OneOf(values) => values.iter().any(|v| v == value),
            Test::Pattern(pattern) => pattern.is_match(value),
        };
        found != matches!(self.op, MatchOp::NotEqual | MatchOp::NotRegex)
    }

    #[must_use]
    pub fn accepts(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name))
    }

    #[must_use]
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The values this matcher accepts, when they can be listed without looking at the data.
    pub(crate) fn listed(&self) -> Option<Vec<&str>> {
        match (&self.op, &self.test) {
            (MatchOp::Equal, _) => Some(vec![self.value.as_str()]),
            (MatchOp::Regex, Test::OneOf(values)) => {
                Some(values.iter().map(String::as_str).collect())
            }
            _ => None,
        }
    }
}

fn compile(pattern: &str) -> Result<Test, String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!("pattern longer than {LONGEST_PATTERN} bytes"));
    }
    let plain = |c: char| c.is_alphanumeric() || "_-/:@ ,".contains(c);
    if pattern.split('|').all(|part| part.chars().all(plain)) {
        let mut values: Vec<String> = pattern.split('|').map(str::to_owned).collect();
        values.sort();
        values.dedup();
        return Ok(Test::OneOf(values));
    }
    RegexBuilder::new(&format!("^(?s:{pattern})$"))
        .size_limit(LARGEST_PROGRAM)
        .build()
        .map(Test::Pattern)
        .map_err(|error| error.to_string())
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.symbol(), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(op: MatchOp, pattern: &str, yes: &[&str], no: &[&str]) {
        let matcher = Matcher::new("l", op, pattern).unwrap();
        for value in yes {
            assert!(matcher.matches(value), "{matcher} should match {value:?}");
        }
        for value in no {
            assert!(
                !matcher.matches(value),
                "{matcher} should not match {value:?}"
            );
        }
    }

    #[test]
    fn four_operators_and_anchors() {
        check(MatchOp::Equal, "a", &["a"], &["", "ab"]);
        check(MatchOp::NotEqual, "a", &["", "ab"], &["a"]);
        check(MatchOp::Regex, "a|b", &["a", "b"], &["ab", ""]);
        check(MatchOp::Regex, "5..|4.*", &["503", "4"], &["1503", ""]);
        check(MatchOp::NotRegex, "5..", &["", "200", "5034"], &["500"]);
        check(MatchOp::Regex, "a|b.*|", &["a", "", "bcd"], &["ca"]);
        check(MatchOp::Regex, "(?i)GET", &["get"], &["gets"]);
    }

    #[test]
    fn a_bad_pattern_names_its_label() {
        let error = Matcher::new("code", MatchOp::Regex, "5(").unwrap_err();
        assert!(error.to_string().starts_with("label code: "), "{error}");
        assert!(Matcher::new("code", MatchOp::Regex, "(a{1000}){1000}").is_err());
    }
}
