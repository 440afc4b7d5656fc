//! The filter's configuration from proto.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use malla_xds_proto::any;
use malla_xds_proto::istio_filters as pb;

use super::{Expression, Metric, Rules, StatsConfig};
use crate::checked::{Cx, Invalid, ignorable, refuse};

/// As Istio has it.
pub(super) const DEFAULT_REPORTING: Duration = Duration::from_secs(5);
/// More often would only cost.
const LEAST_REPORTING: Duration = Duration::from_millis(100);

impl StatsConfig {
    pub(crate) fn parse(wire: pb::StatsConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::StatsConfig {
            disable_host_header_fallback,
            tcp_reporting_duration,
            metrics,
            definitions,
            reporter,
            rescoping_duration,
            scope_grace_period_duration,
        } = wire;
        // Of waypoints, which this proxy is none of.
        refuse!(cx; reporter);
        // Series go by their number here, not by their age.
        ignorable!(cx; rescoping_duration, scope_grace_period_duration);
        for (index, definition) in definitions.iter().enumerate() {
            let name = &definition.name;
            cx.warn(
                &format!("definitions[{index}]"),
                format!("metrics of one's own are not supported by this proxy; {name} is not kept"),
            );
        }
        let reporting = cx
            .duration("tcp_reporting_duration", tcp_reporting_duration)?
            .unwrap_or(DEFAULT_REPORTING);
        let whole = pb::StatsConfig {
            metrics: metrics.clone(),
            ..pb::StatsConfig::default()
        };
        let mut rules = <[Rules; Metric::ALL.len()]>::default();
        for (index, metric) in metrics.into_iter().enumerate() {
            cx.field(&format!("metrics[{index}]"), |cx| {
                change(&mut rules, metric, cx)
            });
        }
        let changed = rules.iter().any(|rules| *rules != Rules::default());
        Ok(Self {
            host_fallback: !disable_host_header_fallback,
            reporting: (!reporting.is_zero()).then(|| reporting.max(LEAST_REPORTING)),
            fingerprint: if changed { fingerprint(&whole) } else { 0 },
            rules: changed.then(|| Box::new(rules)),
        })
    }
}

/// Never 0.
fn fingerprint(changes: &pb::StatsConfig) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&any::encode(changes));
    hasher.finish().max(1)
}

/// One entry of `metrics`; later ones win.
fn change(rules: &mut [Rules; Metric::ALL.len()], wire: pb::MetricConfig, cx: &mut Cx) {
    let pb::MetricConfig {
        dimensions,
        name,
        tags_to_remove,
        r#match,
        drop,
    } = wire;
    if !r#match.is_empty() {
        cx.warn(
            "match",
            "is implemented by no proxy; the entry always applies",
        );
    }
    let of = name.strip_prefix("istio_").unwrap_or(&name);
    let known = Metric::ALL.iter().any(|metric| metric.name() == of);
    if !of.is_empty() && !known {
        cx.warn(
            "name",
            format!("{name} is none of the standard metrics; the entry never applies"),
        );
        return;
    }
    let mut dimensions: Vec<_> = dimensions.into_iter().collect();
    dimensions.sort();
    let labels: Vec<_> = dimensions
        .into_iter()
        .filter_map(|(label, text)| {
            let field = format!("dimensions[{label}]");
            if !is_label(&label) {
                cx.warn(&field, "is no name of a label; it is left out");
                return None;
            }
            let expression = Expression::parse(&text).unwrap_or_else(|reason| {
                cx.warn(&field, format!("{reason}; the label is `unknown`"));
                Expression::unknown()
            });
            Some((label.into(), std::sync::Arc::new(expression)))
        })
        .collect();
    for metric in Metric::ALL {
        if !of.is_empty() && metric.name() != of {
            continue;
        }
        let Some(rules) = rules.get_mut(metric as usize) else {
            continue;
        };
        rules.dropped |= drop;
        for (label, expression) in &labels {
            rules.removed.retain(|removed| removed != label);
            rules.labels.retain(|(known, _)| known != label);
            rules.labels.push((
                std::sync::Arc::clone(label),
                std::sync::Arc::clone(expression),
            ));
        }
        for label in &tags_to_remove {
            rules.labels.retain(|(known, _)| **known != **label);
            if !rules.removed.iter().any(|removed| **removed == **label) {
                rules.removed.push(label.as_str().into());
            }
        }
    }
}

/// What Prometheus takes for the name of a label; `le` is a histogram's own.
fn is_label(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|rest| rest.is_ascii_alphanumeric() || rest == '_')
        && !name.starts_with("__")
        && name != "le"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Metric, Part, StatsConfig};
    use crate::checked::{Checked, Cx, Invalid};
    use crate::pb::Any;

    fn parse(value: serde_json::Value) -> Result<Checked<StatsConfig>, Invalid> {
        let any: Any = malla_xds_proto::json::any_from_value(value).unwrap();
        Cx::check(|cx| {
            let wire = cx.unpack("", &any)?;
            StatsConfig::parse(wire, cx)
        })
    }

    fn config(more: serde_json::Value) -> Result<Checked<StatsConfig>, Invalid> {
        let mut value = json!({"@type": "type.googleapis.com/stats.PluginConfig"});
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        parse(value)
    }

    #[test]
    fn nothing_said_is_everything_kept() {
        let checked = config(json!({})).unwrap();
        assert_eq!(checked.value, StatsConfig::default());
        assert!(checked.warnings.is_empty());
    }

    #[test]
    fn entries_apply_to_one_metric_or_to_all_in_order() {
        let checked = config(json!({
            "disable_host_header_fallback": true,
            "tcp_reporting_duration": "2s",
            "metrics": [
                {"tags_to_remove": ["source_app"]},
                {"name": "requests_total", "dimensions": {"method": "request.method", "source_app": "'x'"}},
                {"name": "istio_request_bytes", "drop": true},
            ],
        }))
        .unwrap();
        let config = checked.value;
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        assert!(!config.host_fallback);
        assert_eq!(config.reporting.unwrap().as_secs(), 2);
        let requests = config.rules(Metric::Requests).unwrap();
        assert!(requests.removed.is_empty());
        let labels: Vec<&str> = requests.labels.iter().map(|(label, _)| &**label).collect();
        assert_eq!(labels, ["method", "source_app"]);
        assert_eq!(requests.labels[1].1.0, [Part::Literal("x".into())]);
        assert!(config.rules(Metric::RequestBytes).unwrap().dropped);
        assert_eq!(
            *config.rules(Metric::TcpSent).unwrap().removed[0],
            *"source_app"
        );
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        let warned = |value| -> Vec<String> {
            let checked = config(value).unwrap();
            checked.warnings.iter().map(ToString::to_string).collect()
        };
        for (value, path) in [
            (
                json!({"definitions": [{"name": "mine", "value": "1"}]}),
                "definitions[0]: ",
            ),
            (json!({"metrics": [{"name": "mine"}]}), "metrics[0].name: "),
            (
                json!({"metrics": [{"match": "true"}]}),
                "metrics[0].match: ",
            ),
            (
                json!({"metrics": [{"dimensions": {"x": "size(request.host)"}}]}),
                "metrics[0].dimensions[x]: ",
            ),
            (
                json!({"metrics": [{"dimensions": {"le": "'1'"}}]}),
                "metrics[0].dimensions[le]: ",
            ),
            (json!({"rescoping_duration": "1s"}), "rescoping_duration: "),
        ] {
            let warnings = warned(value);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].starts_with(path), "{warnings:?}");
        }
        let refused = config(json!({"reporter": "SERVER_GATEWAY"})).unwrap_err();
        assert_eq!(refused.path, "reporter");
    }

    #[test]
    fn a_typed_struct_is_as_good() {
        for name in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
            let checked = parse(json!({
                "@type": format!("type.googleapis.com/{name}"),
                "type_url": "type.googleapis.com/stats.PluginConfig",
                "value": {"disable_host_header_fallback": true},
            }));
            assert!(!checked.unwrap().value.host_fallback);
        }
    }
}
