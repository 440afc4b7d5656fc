//! `label_replace` and `label_join`.

use regex::Regex;

use crate::metrics::NAME;
use crate::promql::ast::{Call, Expr};
use crate::promql::eval::aggregate::is_label;
use crate::promql::eval::{Eval, Result, Series, unique, wrong};

fn text(call: &Call, at: usize) -> Result<&str> {
    match call.args.get(at) {
        Some(Expr::Text(text)) => Ok(text),
        _ => wrong(format!("{}: a string is expected", call.function.name)),
    }
}

impl Eval<'_> {
    pub(super) fn label_replace(
        &self,
        call: &Call,
        mut series: Vec<Series>,
    ) -> Result<Vec<Series>> {
        let (target, replacement) = (text(call, 1)?, text(call, 2)?);
        let (source, pattern) = (text(call, 3)?, text(call, 4)?);
        if !is_label(target) && target != NAME {
            return wrong(format!(
                "invalid destination label name in label_replace(): {target}"
            ));
        }
        let Ok(pattern) = Regex::new(&format!("^(?s:{pattern})$")) else {
            return wrong(format!(
                "invalid regular expression in label_replace(): {pattern}"
            ));
        };
        for series in &mut series {
            let value = series.labels.get(source);
            if let Some(found) = pattern.captures(value) {
                let mut new = String::new();
                found.expand(replacement, &mut new);
                series.labels = series.labels.with(target, &new);
            }
        }
        unique(series)
    }

    pub(super) fn label_join(&self, call: &Call, mut series: Vec<Series>) -> Result<Vec<Series>> {
        let (target, separator) = (text(call, 1)?, text(call, 2)?);
        if !is_label(target) && target != NAME {
            return wrong(format!(
                "invalid destination label name in label_join(): {target}"
            ));
        }
        let mut sources = Vec::new();
        for at in 3..call.args.len() {
            let source = text(call, at)?;
            if !is_label(source) {
                return wrong(format!(
                    "invalid source label name in label_join(): {source}"
                ));
            }
            sources.push(source);
        }
        for series in &mut series {
            let values: Vec<&str> = sources.iter().map(|s| series.labels.get(s)).collect();
            series.labels = series.labels.with(target, &values.join(separator));
        }
        unique(series)
    }
}
