//! String, regex and fraction matchers shared by routes, policies, TLS and logs.

use regex::{Regex, RegexBuilder};

use crate::checked::{Cx, Invalid};
use crate::pb::{core, matcher, types};

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct StringMatcher {
    /// What to look for, lower-cased already when `ignore_case`.
    pub pattern: StringPattern,
    /// ASCII case is ignored.
    pub ignore_case: bool,
}

/// How a string is compared.
#[derive(Debug, Clone, PartialEq)]
pub enum StringPattern {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Any part of it.
    Contains(String),
    /// The whole string matches the expression.
    Regex(FullRegex),
}

/// A regular expression (RE2 syntax, linear time) that must match the whole input.
#[derive(Debug, Clone)]
pub struct FullRegex(Regex);

impl PartialEq for FullRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// Compiled size limit of one expression, RE2's default memory budget order of magnitude.
const REGEX_SIZE_LIMIT: usize = 8 << 20;

impl FullRegex {
    pub(crate) fn parse(wire: &matcher::RegexMatcher, cx: &Cx) -> Result<Self, Invalid> {
        Self::new(&wire.regex).map_err(|reason| cx.invalid("regex", reason))
    }

    /// Compiles `pattern`, anchored at both ends.
    pub fn new(pattern: &str) -> Result<Self, String> {
        // The user's expression alone first, so that an unbalanced `)` cannot escape the group around it.
        compile(pattern)?;
        compile(&format!("^(?:{pattern})$")).map(Self)
    }

    /// True if the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// A search expression and what each match is replaced by (`\1` refers to groups).
#[derive(Debug, Clone)]
pub struct RegexReplace {
    pattern: Regex,
    replacement: String,
}

impl RegexReplace {
    pub(crate) fn parse(
        wire: matcher::RegexMatchAndSubstitute,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let pattern = cx.required("pattern", wire.pattern)?;
        let pattern =
            compile(&pattern.regex).map_err(|reason| cx.invalid("pattern.regex", reason))?;
        let replacement = translate_groups(&wire.substitution, pattern.captures_len())
            .map_err(|reason| cx.invalid("substitution", reason))?;
        Ok(Self {
            pattern,
            replacement,
        })
    }

    /// `text` with every match replaced.
    pub fn replace_all<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, str> {
        self.pattern.replace_all(text, self.replacement.as_str())
    }
}

impl PartialEq for RegexReplace {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.replacement == other.replacement
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(|error| {
            format!(
                "not a regular expression: {}",
                error.to_string().replace('\n', " ")
            )
        })
}

/// RE2's `\1` to this crate's `${1}`; a literal `$` is doubled.
fn translate_groups(text: &str, groups: usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let index = digit.to_digit(10).unwrap_or(0) as usize;
                    if index >= groups {
                        return Err(format!(
                            "refers to group \\{digit}, the pattern has {}",
                            groups - 1
                        ));
                    }
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                _ => return Err("a backslash must be followed by a digit or a backslash".into()),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

impl StringMatcher {
    pub(crate) fn parse(wire: matcher::StringMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        use matcher::string_matcher::MatchPattern;
        let matcher::StringMatcher {
            ignore_case,
            match_pattern,
        } = wire;
        let fold = |text: String| {
            if ignore_case {
                text.to_ascii_lowercase()
            } else {
                text
            }
        };
        let pattern = match cx.required("match_pattern", match_pattern)? {
            MatchPattern::Exact(text) => StringPattern::Exact(fold(text)),
            MatchPattern::Prefix(text) => StringPattern::Prefix(fold(text)),
            MatchPattern::Suffix(text) => StringPattern::Suffix(fold(text)),
            MatchPattern::Contains(text) => StringPattern::Contains(fold(text)),
            MatchPattern::SafeRegex(regex) => cx
                .field("safe_regex", |cx| FullRegex::parse(&regex, cx))
                .map(StringPattern::Regex)?,
            MatchPattern::Custom(_) => {
                return Err(cx.invalid("custom", "not supported by this proxy"));
            }
        };
        Ok(Self {
            pattern,
            ignore_case,
        })
    }

    /// A case-sensitive whole-string matcher.
    pub fn exact(text: impl Into<String>) -> Self {
        Self {
            pattern: StringPattern::Exact(text.into()),
            ignore_case: false,
        }
    }

    /// True if `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        let (left, fold) = (text.as_bytes(), self.ignore_case);
        let same = |a: &[u8], b: &[u8]| {
            if fold {
                a.eq_ignore_ascii_case(b)
            } else {
                a == b
            }
        };
        match &self.pattern {
            StringPattern::Exact(right) => same(left, right.as_bytes()),
            StringPattern::Prefix(right) => left
                .get(..right.len())
                .is_some_and(|head| same(head, right.as_bytes())),
            StringPattern::Suffix(right) => left
                .len()
                .checked_sub(right.len())
                .and_then(|start| left.get(start..))
                .is_some_and(|tail| same(tail, right.as_bytes())),
            StringPattern::Contains(right) if fold => {
                text.to_ascii_lowercase().contains(right.as_str())
            }
            StringPattern::Contains(right) => text.contains(right.as_str()),
            StringPattern::Regex(regex) => regex.is_match(text),
        }
    }
}

/// A share of requests, as parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction(u32);

impl Fraction {
    /// Every request.
    pub const ALWAYS: Self = Self(1_000_000);
    /// No request.
    pub const NEVER: Self = Self(0);

    pub(crate) fn parse(wire: types::FractionalPercent, cx: &Cx) -> Result<Self, Invalid> {
        use types::fractional_percent::DenominatorType;
        let scale = match cx.enumeration("denominator", wire.denominator)? {
            DenominatorType::Hundred => 10_000,
            DenominatorType::TenThousand => 100,
            DenominatorType::Million => 1,
        };
        Ok(Self(wire.numerator.saturating_mul(scale).min(1_000_000)))
    }

    /// So many of a hundred.
    pub(crate) fn percent(percent: u64) -> Self {
        u32::try_from(percent.min(100)).map_or(Self::ALWAYS, |percent| Self(percent * 10_000))
    }

    /// A share that a runtime value may override.
    pub(crate) fn parse_runtime(
        wire: core::RuntimeFractionalPercent,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let default = match wire.default_value {
            Some(value) => cx.field("default_value", |cx| Self::parse(value, cx))?,
            None => Self::NEVER,
        };
        Ok(cx.runtime_fraction(&wire.runtime_key, default))
    }

    /// Decides for one request, given a uniformly random number.
    pub fn hit(self, random: u64) -> bool {
        self.0 >= 1_000_000 || random % 1_000_000 < u64::from(self.0)
    }

    /// Parts per million.
    pub fn ppm(self) -> u32 {
        self.0
    }
}
