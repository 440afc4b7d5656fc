//! What log lines are searched for.

use serde::Serialize;

use crate::logs::line::LogLine;

const MOST_LINES: usize = 5000;
const USUAL_LINES: usize = 200;

/// Conditions that all must hold; empty ones hold for everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogFilter {
    pub namespace: Option<String>,
    pub workload: Option<String>,
    pub pod: Option<String>,
    pub code: Option<CodeFilter>,
    /// A response flag, or `any`.
    pub flag: Option<String>,
    /// Lower-case words that all must occur.
    pub words: Vec<String>,
    /// 32 lower-case hexadecimal digits.
    pub trace_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeFilter {
    Exact(u32),
    /// `5` for 500 to 599.
    Class(u32),
}

/// A filter, a range of time (Unix milliseconds, inclusive) and a page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogQuery {
    pub filter: LogFilter,
    pub from: Option<i64>,
    pub to: Option<i64>,
    pub limit: usize,
    pub(crate) cursor: Option<Vec<u8>>,
}

/// Lines, newest first, and where to go on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LogPage {
    pub lines: Vec<LogLine>,
    /// `None` at the end.
    pub cursor: Option<String>,
}

/// A parameter that isn't understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {expected} is expected")]
pub struct BadQuery {
    pub field: String,
    pub expected: &'static str,
}

impl LogQuery {
    /// Reads the parameters of the console's API: `namespace`, `workload`, `pod`, `code`, `flag`,
    /// `text`, `traceId`, `from`, `to` (Unix seconds), `limit`, `cursor`.
    ///
    /// # Errors
    /// Names the parameter that isn't understood, unknown ones included.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> Result<Self, BadQuery> {
        let mut query = Self {
            limit: USUAL_LINES,
            ..Self::default()
        };
        for (name, value) in pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            if !value.is_empty() {
                query.set(name, value).map_err(|expected| BadQuery {
                    field: name.to_owned(),
                    expected,
                })?;
            }
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let filter = &mut self.filter;
        let text = || Some(value.to_owned());
        match name {
            "namespace" => filter.namespace = text(),
            "workload" => filter.workload = text(),
            "pod" => filter.pod = text(),
            "flag" => filter.flag = text(),
            "code" => {
                filter.code = Some(code(value).ok_or("a status code or a class such as 5xx")?)
            }
            "text" => {
                let words = value.split_whitespace().map(str::to_lowercase);
                filter.words = words.take(16).collect();
            }
            "traceId" => {
                let hexadecimal = value.len() <= 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
                if !hexadecimal {
                    return Err("up to 32 hexadecimal digits");
                }
                filter.trace_id = Some(format!("{value:0>32}").to_ascii_lowercase());
            }
            "from" => self.from = Some(seconds(value).ok_or("a time in Unix seconds")?),
            "to" => self.to = Some(seconds(value).ok_or("a time in Unix seconds")?),
            "limit" => {
                let limit = value.parse().ok().filter(|l| (1..=MOST_LINES).contains(l));
                self.limit = limit.ok_or("a number from 1 to 5000")?;
            }
            "cursor" => {
                let cursor = crate::spans::model::id(value, 16).filter(|_| value.len() == 32);
                self.cursor = Some(cursor.ok_or("the cursor of the page before")?);
            }
            _ => {
                return Err(
                    "no such parameter; one of namespace, workload, pod, code, flag, text, traceId, from, to, limit, cursor",
                );
            }
        }
        Ok(())
    }
}

fn code(value: &str) -> Option<CodeFilter> {
    match value.strip_suffix("xx") {
        Some(class) => class
            .parse()
            .ok()
            .filter(|c| (1..=5).contains(c))
            .map(CodeFilter::Class),
        None => value
            .parse()
            .ok()
            .filter(|c| *c <= 999)
            .map(CodeFilter::Exact),
    }
}

fn seconds(value: &str) -> Option<i64> {
    let milliseconds = value.parse::<f64>().ok()? * 1000.0;
    (milliseconds.is_finite() && milliseconds.abs() < 9e15).then_some(milliseconds.round() as i64)
}

impl LogFilter {
    /// Whether a line meets all conditions but that of the trace, which an index answers.
    #[must_use]
    pub fn accepts(&self, line: &LogLine) -> bool {
        let same =
            |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|w| w == value);
        let code = match self.code {
            None => true,
            Some(CodeFilter::Exact(code)) => line.code == code,
            Some(CodeFilter::Class(class)) => line.code / 100 == class,
        };
        let flag = match self.flag.as_deref() {
            None => true,
            Some("any") => !line.flags.is_empty(),
            Some(flag) => line.flags.iter().any(|f| f == flag),
        };
        code && flag
            && same(&self.namespace, &line.namespace)
            && same(&self.workload, &line.workload)
            && same(&self.pod, &line.pod)
            && self.words.iter().all(|word| has_word(line, word))
    }
}

fn has_word(line: &LogLine, word: &str) -> bool {
    let fields = [
        &line.path,
        &line.authority,
        &line.user_agent,
        &line.request_id,
        &line.upstream_host,
        &line.upstream_cluster,
        &line.details,
        &line.failure,
    ];
    fields
        .iter()
        .any(|field| field.to_lowercase().contains(word))
}
