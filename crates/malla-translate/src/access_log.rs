//! Access logs. Istio's default formats are user interface: people grep them.

use malla_model::MeshSettings;
use malla_model::telemetry::LogFormat;
use malla_xds_proto::accesslog::access_log::ConfigType;
use malla_xds_proto::accesslog::{AccessLog, AccessLogFilter};
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::core::substitution_format_string::Format;
use malla_xds_proto::core::{DataSource, SubstitutionFormatString, TypedExtensionConfig};
use malla_xds_proto::file_access_log::FileAccessLog;
use malla_xds_proto::file_access_log::file_access_log::AccessLogFormat;
use malla_xds_proto::pb::envoy::extensions::formatter::cel::v3::Cel;
use malla_xds_proto::pb::envoy::extensions::formatter::metadata::v3::Metadata;
use malla_xds_proto::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use malla_xds_proto::pb::google::protobuf::{Any, Struct, Value, value};
use malla_xds_proto::{any, wkt};

use crate::telemetry::logs::own_format;

/// Istio's text format (`EnvoyTextLogFormat`).
pub const TEXT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% ",
    "%CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" ",
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% ",
    "\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" ",
    "\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// Istio's JSON format (`EnvoyJSONLogFormatIstio`).
pub const JSON_FORMAT: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// The log that MeshConfig's `accessLogFile` wants; none where logging is off.
pub(crate) fn of_mesh(
    settings: &MeshSettings,
    filter: Option<AccessLogFilter>,
) -> Option<AccessLog> {
    let path = settings.access_log_file.as_deref()?;
    Some(file(path, &LogFormat::Mesh, settings, filter))
}

/// A log of lines in a file.
pub(crate) fn file(
    path: &str,
    format: &LogFormat,
    settings: &MeshSettings,
    filter: Option<AccessLogFilter>,
) -> AccessLog {
    let mesh = (
        settings.access_log_format.as_deref(),
        settings.access_log_json,
    );
    let (custom, json) = match own_format(format) {
        Some((text, json)) => (Some(text), json),
        None => mesh,
    };
    let config = FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(layout(custom, json))),
    };
    AccessLog {
        name: "envoy.access_loggers.file".into(),
        filter,
        config_type: Some(ConfigType::TypedConfig(any::pack(&config))),
    }
}

fn layout(custom: Option<&str>, json: bool) -> SubstitutionFormatString {
    let format = if json {
        Format::JsonFormat(custom.and_then(json_object).unwrap_or_else(default_json))
    } else {
        Format::TextFormatSource(DataSource {
            specifier: Some(Specifier::InlineString(custom.map_or_else(
                || TEXT_FORMAT.to_owned(),
                |text| {
                    if text.ends_with('\n') {
                        text.to_owned()
                    } else {
                        format!("{text}\n")
                    }
                },
            ))),
            ..DataSource::default()
        })
    };
    SubstitutionFormatString {
        format: Some(format),
        formatters: formatters(custom.unwrap_or_default()),
        ..SubstitutionFormatString::default()
    }
}

/// Commands that Envoy has in extensions, added where a format uses them, as Istio does.
fn formatters(text: &str) -> Vec<TypedExtensionConfig> {
    let extension = |name: &str, config: Any| TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    };
    let mut out = Vec::new();
    if text.contains("%REQ_WITHOUT_QUERY(") {
        let config = any::pack(&ReqWithoutQuery {});
        out.push(extension("envoy.formatter.req_without_query", config));
    }
    if text.contains("%METADATA(") {
        let config = any::pack(&Metadata {});
        out.push(extension("envoy.formatter.metadata", config));
    }
    if text.contains("%CEL(") {
        let config = any::pack(&Cel::default());
        out.push(extension("envoy.formatter.cel", config));
    }
    out
}

fn default_json() -> Struct {
    wkt::structure(JSON_FORMAT.map(|(key, operator)| (key, wkt::string(operator))))
}

/// A custom JSON format as users write it in MeshConfig; `None` when it is no JSON object.
fn json_object(text: &str) -> Option<Struct> {
    match value_of(serde_json::from_str(text).ok()?).kind? {
        value::Kind::StructValue(object) => Some(object),
        _ => None,
    }
}

fn value_of(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => value::Kind::NullValue(0),
        serde_json::Value::Bool(on) => value::Kind::BoolValue(on),
        serde_json::Value::Number(number) => {
            value::Kind::NumberValue(number.as_f64().unwrap_or_default())
        }
        serde_json::Value::String(text) => value::Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            return wkt::list(items.into_iter().map(value_of).collect());
        }
        serde_json::Value::Object(fields) => {
            return wkt::object(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, value_of(value))),
            );
        }
    };
    Value { kind: Some(kind) }
}
