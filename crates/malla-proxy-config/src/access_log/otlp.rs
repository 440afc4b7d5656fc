//! Log records for an OpenTelemetry collector.
//!
//! Source: `envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig`. Body and attributes are trees
//! whose strings are formats; the resource's attributes are sent as they are written.

use std::sync::Arc;
use std::time::Duration;

use malla_xds_proto::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue};

use super::CommonLog;
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::format::{Format, check_formatters};
use crate::pb::extensions::access_loggers as ext;
use crate::pb::otel;
use crate::tracing::{Collector, CustomTag};

/// Trees deeper than this are refused.
const MAX_DEPTH: u32 = 16;

/// One log: what a record says, and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpLog {
    /// The collector, shared by all logs that say the same.
    pub export: Arc<OtlpExport>,
    /// `LogRecord.body`.
    pub body: Option<OtlpValue>,
    /// `LogRecord.attributes`, in order.
    pub attributes: Vec<(String, OtlpValue)>,
    /// Further attributes.
    pub tags: Vec<CustomTag>,
}

/// A collector of log records, and who it is told sends them.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpExport {
    /// The server.
    pub collector: Collector,
    /// `log_name` of the resource.
    pub log_name: String,
    /// The resource tells log, zone, cluster and node.
    pub builtin_labels: bool,
    /// Further attributes of the resource.
    pub resource: Vec<KeyValue>,
    /// Name of the counters; may be empty.
    pub stat_prefix: String,
    /// The longest wait of a record.
    pub flush_interval: Duration,
    /// Bytes at which records go without waiting.
    pub buffer: usize,
}

/// An `AnyValue` whose strings are formats.
#[derive(Debug, Clone, PartialEq)]
pub enum OtlpValue {
    /// A string.
    Text(Format),
    /// An array.
    List(Vec<OtlpValue>),
    /// A list of keys and values.
    Object(Vec<(String, OtlpValue)>),
}

impl OtlpLog {
    pub(super) fn parse(
        wire: ext::open_telemetry::v3::OpenTelemetryAccessLogConfig,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        #[allow(deprecated)]
        let ext::open_telemetry::v3::OpenTelemetryAccessLogConfig {
            common_config,
            http_service,
            grpc_service,
            disable_builtin_labels,
            resource_attributes,
            resource_detectors,
            body,
            attributes,
            stat_prefix,
            formatters,
            log_name,
            buffer_flush_interval,
            buffer_size_bytes,
            filter_state_objects_to_log,
            custom_tags,
        } = wire;
        refuse!(cx; resource_detectors);
        ignorable!(cx; filter_state_objects_to_log);
        check_formatters(formatters, cx)?;
        let own = CommonLog {
            log_name,
            service: grpc_service,
            flush_interval: cx.duration("buffer_flush_interval", buffer_flush_interval)?,
            buffer: buffer_size_bytes.map(|size| size.value as usize),
            tags: CustomTag::parse_all(custom_tags, cx)?,
        };
        let common = match common_config {
            None => own,
            // The older way to say the same.
            Some(wire) => {
                let older = cx.field("common_config", |cx| CommonLog::parse(wire, cx))?;
                own.or(CommonLog {
                    service: older.service.filter(|_| http_service.is_none()),
                    ..older
                })
            }
        };
        let (flush_interval, buffer) = (common.flush_interval(), common.buffer());
        let ways = "grpc_service, http_service and common_config";
        let export = OtlpExport {
            collector: Collector::parse(common.service, http_service, ways, cx)?,
            log_name: common.log_name,
            builtin_labels: !disable_builtin_labels,
            resource: resource_attributes.unwrap_or_default().values,
            stat_prefix,
            flush_interval,
            buffer,
        };
        let body = match body {
            None => None,
            Some(body) => Some(cx.field("body", |cx| OtlpValue::parse(body, MAX_DEPTH, cx))?),
        };
        let attributes = attributes.unwrap_or_default().values;
        Ok(Self {
            export: Arc::new(export),
            body,
            attributes: cx.field("attributes", |cx| {
                OtlpValue::parse_pairs(attributes, MAX_DEPTH, cx)
            })?,
            tags: common.tags,
        })
    }

    /// Calls `visit` with each format that a record is made of.
    pub fn visit(&self, visit: &mut dyn FnMut(&Format)) {
        self.body.iter().for_each(|body| body.visit(visit));
        for (_, value) in &self.attributes {
            value.visit(visit);
        }
        self.tags.iter().for_each(|tag| visit(&tag.value));
    }
}

impl OtlpValue {
    fn parse(wire: AnyValue, depth: u32, cx: &mut Cx) -> Result<Self, Invalid> {
        use otel::any_value::Value;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.invalid("", "nested too deeply"));
        };
        Ok(match wire.value {
            Some(Value::StringValue(text)) => {
                let format =
                    Format::compile(&text).map_err(|reason| cx.invalid("string_value", reason))?;
                Self::Text(format)
            }
            Some(Value::ArrayValue(list)) => {
                Self::List(cx.each("array_value.values", list.values, |item, cx| {
                    Self::parse(item, depth, cx)
                })?)
            }
            Some(Value::KvlistValue(list)) => Self::Object(cx.field("kvlist_value", |cx| {
                Self::parse_pairs(list.values, depth, cx)
            })?),
            // As in Envoy.
            _ => {
                return Err(cx.invalid(
                    "",
                    "must be a string, an array or a list of keys and values",
                ));
            }
        })
    }

    fn parse_pairs(
        wire: Vec<KeyValue>,
        depth: u32,
        cx: &mut Cx,
    ) -> Result<Vec<(String, Self)>, Invalid> {
        cx.each("values", wire, |pair, cx| {
            let value = pair.value.unwrap_or_default();
            let value = cx.field("value", |cx| Self::parse(value, depth, cx))?;
            Ok((pair.key, value))
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(&Format)) {
        match self {
            Self::Text(format) => visit(format),
            Self::List(items) => items.iter().for_each(|item| item.visit(visit)),
            Self::Object(pairs) => pairs.iter().for_each(|(_, value)| value.visit(visit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::json;

    use super::{OtlpLog, OtlpValue};
    use crate::checked::Cx;

    fn parse(yaml: &str) -> Result<OtlpLog, String> {
        let wire = json::from_yaml(yaml).unwrap();
        Cx::check(|cx| OtlpLog::parse(wire, cx))
            .map(|checked| checked.value)
            .map_err(|invalid| invalid.to_string())
    }

    const NEW: &str = "{ log_name: web, grpc_service: { envoy_grpc: { cluster_name: otel } }, \
        body: { string_value: '%DURATION% ms' }, attributes: { values: [ { key: a, value: { kvlist_value: { values: [ { key: b, value: { string_value: x } } ] } } } ] } }";
    const OLD: &str = "{ common_config: { log_name: web, transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: otel } } } }";

    #[test]
    fn both_spellings_are_read() {
        let new = parse(NEW).unwrap();
        assert!(matches!(new.attributes.as_slice(), [(key, OtlpValue::Object(_))] if key == "a"));
        assert_eq!(new.export, parse(OLD).unwrap().export);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |from: &str, to: &str, want: &str| {
            let yaml = NEW.replace(from, to);
            assert_ne!(yaml, NEW, "{from}");
            let got = parse(&yaml).unwrap_err();
            assert!(got.contains(want), "{to}: {got}");
        };
        check("%DURATION%", "%NOPE%", "body.string_value: %NOPE%");
        check(
            "string_value: x",
            "int_value: 1",
            "attributes.values[0].value.kvlist_value.values[0].value: must be a string",
        );
        check(
            "grpc_service: { envoy_grpc: { cluster_name: otel } }, ",
            "",
            "grpc_service: exactly one of",
        );
    }
}
