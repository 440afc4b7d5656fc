//! MeshConfig's providers of telemetry and authorization, and what `defaultConfig.tracing` says.
//!
//! A provider with a field that cannot be read is kept under its name and does nothing, so that whoever names it is
//! told; what of a provider has no effect is reported by path.

mod authorizer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use malla_model::telemetry::{
    LogFormat, LogService, OpenTelemetry, OtlpHttp, Provider, ProviderKind, Share, Target,
    TelemetrySettings, Zipkin,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::NotHonoured;
use super::telemetry::tags;
use crate::duration;
use crate::istio::telemetry::CustomTag;

const NOT_YET: &str = "Malla does not act on it yet";
/// Istio's fields for kinds of providers, beside those Malla acts on.
const OTHER_KINDS: [&str; 7] = [
    "lightstep",
    "datadog",
    "stackdriver",
    "opencensus",
    "skywalking",
    "envoyOtelAls",
    "sds",
];

/// Fields of one object, read once each; what is left is reported.
struct Fields<'a> {
    path: String,
    left: BTreeMap<&'a str, &'a Value>,
    notes: &'a mut Vec<NotHonoured>,
}

impl<'a> Fields<'a> {
    fn new(path: String, object: &'a Map<String, Value>, notes: &'a mut Vec<NotHonoured>) -> Self {
        let set = object.iter().filter(|(_, value)| !value.is_null());
        Self {
            path,
            left: set.map(|(name, value)| (name.as_str(), value)).collect(),
            notes,
        }
    }

    fn note(&mut self, name: &str, why: &'static str) {
        self.notes.push(NotHonoured {
            path: format!("{}.{name}", self.path),
            why: why.into(),
        });
    }

    fn read<T>(
        &mut self,
        name: &str,
        why: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.left.remove(name)?;
        let read = read(value);
        if read.is_none() {
            self.note(name, why);
        }
        read
    }

    fn text(&mut self, name: &str) -> Option<Arc<str>> {
        let text = self.read(name, "is not a text", Value::as_str);
        text.filter(|text| !text.is_empty()).map(Arc::from)
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, "is neither true nor false", Value::as_bool)
    }

    fn number(&mut self, name: &str) -> Option<u32> {
        self.read(name, "is not a number", |value| {
            value.as_u64().and_then(|number| u32::try_from(number).ok())
        })
    }

    fn time(&mut self, name: &str) -> Option<Duration> {
        self.read(name, "is not a duration such as 10s", |value| {
            duration::parse(value.as_str()?).ok()
        })
    }

    fn texts(&mut self, name: &str) -> Vec<Arc<str>> {
        let list = self.read(name, "is not a list of texts", |value| {
            let items = value.as_array()?.iter();
            items
                .map(|item| item.as_str().map(Arc::from))
                .collect::<Option<Vec<Arc<str>>>>()
        });
        list.unwrap_or_default()
    }

    fn object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.left.remove(name)?;
        let Some(object) = value.as_object() else {
            self.note(name, "is not a mapping");
            return None;
        };
        let mut inner = Fields::new(format!("{}.{name}", self.path), object, self.notes);
        let out = read(&mut inner);
        inner.rest(NOT_YET);
        out
    }

    /// Reports what nobody has read.
    fn rest(&mut self, why: &'static str) {
        for name in std::mem::take(&mut self.left).into_keys() {
            self.note(name, why);
        }
    }

    fn target(&mut self) -> Option<Target> {
        let service = self.text("service");
        let port = self.number("port").and_then(super::meta::port);
        match (service, port) {
            (Some(service), Some(port)) => Some(Target { service, port }),
            (None, _) => {
                self.note("service", "is required: a service of the mesh");
                None
            }
            (_, None) => {
                self.note("port", "is required: a number from 1 to 65535");
                None
            }
        }
    }

    fn headers(&mut self, name: &str) -> Vec<(Arc<str>, Arc<str>)> {
        let headers = self.read(name, "is not a list of names and values", |value| {
            let pair = |item: &Value| {
                let text = |name: &str| item.get(name)?.as_str().map(Arc::from);
                Some((text("name")?, text("value")?))
            };
            value
                .as_array()?
                .iter()
                .map(pair)
                .collect::<Option<Vec<_>>>()
        });
        headers.unwrap_or_default()
    }
}

/// Reads `extensionProviders`.
pub(super) fn extension_providers(value: &Value, notes: &mut Vec<NotHonoured>) -> Vec<Provider> {
    let mut out: Vec<Provider> = Vec::new();
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        let path = format!("extensionProviders[{at}]");
        let Some(object) = item.as_object() else {
            notes.push(NotHonoured {
                path,
                why: "is not a mapping".into(),
            });
            continue;
        };
        let mut fields = Fields::new(path, object, notes);
        let Some(name) = fields.text("name") else {
            fields.note("name", "is required");
            continue;
        };
        let kind = kind(&mut fields).unwrap_or_else(|| ProviderKind::Other("unreadable".into()));
        fields.rest("is not a kind of provider");
        // Of two with one name the later counts, as in Istio.
        out.retain(|known| known.name != name);
        out.push(Provider { name, kind });
    }
    out
}

fn kind(fields: &mut Fields<'_>) -> Option<ProviderKind> {
    let known = fields.left.keys().copied().find(|name| {
        matches!(
            *name,
            "envoyFileAccessLog"
                | "envoyHttpAls"
                | "envoyTcpAls"
                | "opentelemetry"
                | "zipkin"
                | "prometheus"
                | "envoyExtAuthzHttp"
                | "envoyExtAuthzGrpc"
        )
    });
    match known {
        Some("envoyFileAccessLog") => fields.object("envoyFileAccessLog", file),
        Some("envoyHttpAls") => {
            let log = fields.object("envoyHttpAls", log_service);
            log.map(ProviderKind::HttpLogs)
        }
        Some("envoyTcpAls") => {
            let log = fields.object("envoyTcpAls", log_service);
            log.map(ProviderKind::TcpLogs)
        }
        Some("opentelemetry") => fields.object("opentelemetry", opentelemetry),
        Some("zipkin") => fields.object("zipkin", zipkin),
        Some("envoyExtAuthzHttp") => fields.object("envoyExtAuthzHttp", authorizer::by_http),
        Some("envoyExtAuthzGrpc") => fields.object("envoyExtAuthzGrpc", authorizer::by_grpc),
        Some(_) => {
            fields.object("prometheus", |_| Some(()));
            Some(ProviderKind::Prometheus)
        }
        None => {
            let other = OTHER_KINDS
                .into_iter()
                .find(|name| fields.left.remove(name).is_some())?;
            fields.note(other, NOT_YET);
            Some(ProviderKind::Other(other.into()))
        }
    }
}

fn file(fields: &mut Fields<'_>) -> Option<ProviderKind> {
    let format = fields.object("logFormat", |format| {
        let text = format.text("text").map(LogFormat::Text);
        let labels = format.read("labels", "is not a mapping", |labels| {
            let labels = labels.as_object().filter(|labels| !labels.is_empty())?;
            Some(LogFormat::Labels(
                Value::Object(labels.clone()).to_string().into(),
            ))
        });
        text.or(labels)
    });
    // Only text has what it leaves empty.
    let path = fields.text("path");
    Some(ProviderKind::File {
        path: path.unwrap_or_else(|| "/dev/stdout".into()),
        format: format.unwrap_or(LogFormat::Mesh),
    })
}

fn log_service(fields: &mut Fields<'_>) -> Option<LogService> {
    Some(LogService {
        target: fields.target()?,
        log_name: fields.text("logName"),
        request_headers: fields.texts("additionalRequestHeadersToLog"),
        response_headers: fields.texts("additionalResponseHeadersToLog"),
        trailers: fields.texts("additionalResponseTrailersToLog"),
    })
}

fn opentelemetry(fields: &mut Fields<'_>) -> Option<ProviderKind> {
    let http = fields.object("http", |http| {
        Some(OtlpHttp {
            path: http.text("path")?,
            timeout: http.time("timeout"),
            headers: http.headers("headers"),
        })
    });
    let grpc = fields.object("grpc", |grpc| {
        Some((grpc.time("timeout"), grpc.headers("initialMetadata")))
    });
    let (grpc_timeout, grpc_headers) = grpc.unwrap_or_default();
    let resource = fields.object("resourceDetectors", |detectors| {
        Some(detectors.left.remove("environment").is_some())
    });
    Some(ProviderKind::OpenTelemetry(OpenTelemetry {
        target: fields.target()?,
        http,
        grpc_timeout,
        grpc_headers,
        max_path: fields.number("maxTagLength"),
        resource_from_environment: resource.unwrap_or(false),
    }))
}

fn zipkin(fields: &mut Fields<'_>) -> Option<ProviderKind> {
    let w3c = fields.read(
        "traceContextOption",
        "is not a known option",
        |option| match option.as_str()? {
            "USE_B3" => Some(false),
            "USE_B3_WITH_W3C_PROPAGATION" => Some(true),
            _ => None,
        },
    );
    Some(ProviderKind::Zipkin(Zipkin {
        target: fields.target()?,
        path: fields.text("path"),
        wide_ids: fields.flag("enable64bitTraceId") != Some(true),
        w3c: w3c.unwrap_or(false),
        max_path: fields.number("maxTagLength"),
    }))
}

/// Reads `defaultProviders`.
pub(super) fn default_providers(
    value: &Value,
    settings: &mut TelemetrySettings,
    notes: &mut Vec<NotHonoured>,
) {
    let Some(object) = value.as_object() else {
        return;
    };
    let mut fields = Fields::new("defaultProviders".into(), object, notes);
    settings.default_tracing = fields.texts("tracing");
    settings.default_metrics = fields.texts("metrics");
    settings.default_logging = fields.texts("accessLogging");
    fields.rest(NOT_YET);
}

/// Reads `defaultConfig`, of which only `tracing` counts here.
pub(super) fn default_config(
    value: &Value,
    settings: &mut TelemetrySettings,
    notes: &mut Vec<NotHonoured>,
) {
    let Some(object) = value.as_object() else {
        return;
    };
    let mut fields = Fields::new("defaultConfig".into(), object, notes);
    fields.object("tracing", |tracing| {
        let share = tracing.read("sampling", "is not a number from 0 to 100", |value| {
            value.as_f64().filter(|share| (0.0..=100.0).contains(share))
        });
        // Zero is protobuf's word for nothing.
        settings.sampling = share.filter(|share| *share > 0.0).map(Share::of_percent);
        settings.max_path = tracing.number("maxPathTagLength");
        let written = tracing.read("customTags", "is not a mapping of tags", |value| {
            BTreeMap::<String, CustomTag>::deserialize(value).ok()
        });
        settings.tags = written.map(|written| tags(&written)).unwrap_or_default();
        tracing.object("zipkin", |zipkin| {
            settings.zipkin_address = zipkin.text("address");
            Some(())
        })
    });
    fields.rest(NOT_YET);
}
