//! Telemetry.

use super::names;
use crate::istio::TelemetrySpec;
use crate::istio::telemetry::CustomTag;
use crate::report::Report;

pub(super) fn check(spec: &TelemetrySpec, report: &mut Report) {
    names::selector(spec.selector.as_ref(), "spec.selector", report);
    for (at, rule) in spec.tracing.iter().enumerate() {
        let path = format!("spec.tracing[{at}]");
        if let Some(share) = rule.random_sampling_percentage
            && !(0.0..=100.0).contains(&share)
        {
            report
                .error(
                    format!("{path}.randomSamplingPercentage"),
                    "must be from 0 to 100",
                )
                .value(share.to_string())
                .done();
        }
        if rule.providers.len() > 1 {
            report
                .warn(
                    format!("{path}.providers"),
                    "only the first provider gets spans",
                )
                .done();
        }
        for (name, tag) in &rule.custom_tags {
            tag_source(tag, &format!("{path}.customTags.{name}"), report);
        }
    }
}

fn tag_source(tag: &CustomTag, path: &str, report: &mut Report) {
    let sources = [
        tag.literal.is_some(),
        tag.environment.is_some(),
        tag.header.is_some(),
        tag.formatter.is_some(),
    ];
    if !sources.contains(&true) {
        report
            .error(path, "says nothing of its value")
            .fix("set one of literal, environment, header, formatter");
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
    if let Some(header) = &tag.header
        && header.name.trim_start_matches(':').contains(odd)
    {
        report
            .error(format!("{path}.header.name"), "is not a header name")
            .value(format!("{:?}", header.name))
            .done();
    }
}
