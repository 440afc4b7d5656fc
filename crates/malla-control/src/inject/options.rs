//! What a pod's annotations ask of its proxy (istio-surface: labels and annotations).
//!
//! An annotation that is understood but cannot be honoured yet becomes a warning; one whose value
//! means nothing is an error, because guessing would change what traffic is captured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::InjectSettings;

/// Checked wishes of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodOptions {
    pub image: String,
    pub log_level: String,
    pub capture: Capture,
    pub redirect: Redirect,
    pub native_sidecar: bool,
    pub hold_application: bool,
    pub rewrite_probes: bool,
    pub resources: Resources,
    pub readiness: Readiness,
    pub status_port: u16,
    /// Worker threads of the proxy; `None` leaves it to the proxy.
    pub concurrency: Option<u32>,
    pub termination_drain: Option<Duration>,
    /// Extra environment of the proxy (`proxyMetadata`).
    pub environment: BTreeMap<String, String>,
    pub dns_capture: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    Redirect,
    /// The application sees its clients' addresses.
    Tproxy,
    /// The application is configured to use the proxy itself.
    None,
}

impl Capture {
    /// As `interceptionMode` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
            Self::None => "NONE",
        }
    }
}

/// Passed on to `malla init` as its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub outbound_ranges: String,
    pub exclude_outbound_ranges: String,
    pub inbound_ports: String,
    pub exclude_inbound_ports: String,
    pub outbound_ports: String,
    pub exclude_outbound_ports: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    pub cpu_request: String,
    pub memory_request: String,
    pub cpu_limit: Option<String>,
    pub memory_limit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    pub initial_delay: u32,
    pub period: u32,
    pub failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod annotation {annotation}: {value:?} is not {expected}")]
pub struct BadAnnotation {
    pub annotation: String,
    pub value: String,
    pub expected: &'static str,
}

/// The part of `proxy.istio.io/config` that is honoured; other fields are reported.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    concurrency: Option<u32>,
    hold_application_until_proxy_starts: Option<bool>,
    termination_drain_duration: Option<String>,
    proxy_metadata: BTreeMap<String, String>,
    status_port: Option<u16>,
    interception_mode: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Annotations of Istio that steer a proxy and are not honoured by this version.
const NOT_HONOURED: [&str; 19] = [
    "sidecar.istio.io/bootstrapOverride",
    "sidecar.istio.io/statsInclusionPrefixes",
    "sidecar.istio.io/statsInclusionSuffixes",
    "sidecar.istio.io/statsInclusionRegexps",
    "sidecar.istio.io/statsHistogramBuckets",
    "sidecar.istio.io/statsHistogramBins",
    "sidecar.istio.io/statsFlushInterval",
    "sidecar.istio.io/statsEvictionInterval",
    "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/statsCompression",
    "sidecar.istio.io/userVolume",
    "sidecar.istio.io/userVolumeMount",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/proxyImageType",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "istio.io/reroute-virtual-interfaces",
    "proxy.istio.io/overrides",
    "inject.istio.io/templates",
];

struct Annotations<'a>(Option<&'a serde_json::Map<String, Value>>);

impl Annotations<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0?.get(name)?.as_str()
    }

    fn or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or(default).to_owned()
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<T>, BadAnnotation> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| bad(name, text, expected))
    }
}

fn bad(annotation: &str, value: &str, expected: &'static str) -> BadAnnotation {
    BadAnnotation {
        annotation: annotation.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

impl PodOptions {
    /// # Errors
    /// When an annotation's value cannot be understood.
    pub fn read(
        pod: &Value,
        settings: &InjectSettings,
        warnings: &mut Vec<String>,
    ) -> Result<Self, BadAnnotation> {
        let annotations = Annotations(
            pod.pointer("/metadata/annotations")
                .and_then(Value::as_object),
        );
        for name in NOT_HONOURED
            .iter()
            .filter(|name| annotations.text(name).is_some())
        {
            warnings.push(format!(
                "pod annotation {name} is not honoured by this version of Malla"
            ));
        }
        let config = proxy_config(&annotations, warnings)?;
        let capture = capture(&annotations, &config)?;
        let redirect = Redirect {
            outbound_ranges: annotations
                .or("traffic.sidecar.istio.io/includeOutboundIPRanges", "*"),
            exclude_outbound_ranges: annotations
                .or("traffic.sidecar.istio.io/excludeOutboundIPRanges", ""),
            inbound_ports: annotations.or("traffic.sidecar.istio.io/includeInboundPorts", "*"),
            exclude_inbound_ports: annotations
                .or("traffic.sidecar.istio.io/excludeInboundPorts", ""),
            outbound_ports: annotations.or("traffic.sidecar.istio.io/includeOutboundPorts", ""),
            exclude_outbound_ports: annotations
                .or("traffic.sidecar.istio.io/excludeOutboundPorts", ""),
        };
        check_redirect(&redirect)?;
        let number = "a whole number";
        let switch = "true or false";
        let status_port = annotations.parsed("status.sidecar.istio.io/port", "a port number")?;
        let termination_drain = match &config.termination_drain_duration {
            None => None,
            Some(text) => {
                Some(duration(text).ok_or_else(|| bad(CONFIG, text, "a duration such as 5s"))?)
            }
        };
        Ok(Self {
            image: annotations.or("sidecar.istio.io/proxyImage", &settings.image),
            log_level: annotations.or("sidecar.istio.io/logLevel", "warning"),
            capture,
            redirect,
            native_sidecar: annotations
                .parsed("sidecar.istio.io/nativeSidecar", switch)?
                .unwrap_or(false),
            hold_application: config
                .hold_application_until_proxy_starts
                .unwrap_or(settings.hold_application),
            rewrite_probes: annotations
                .parsed("sidecar.istio.io/rewriteAppHTTPProbers", switch)?
                .unwrap_or(true),
            resources: Resources {
                cpu_request: annotations.or("sidecar.istio.io/proxyCPU", "10m"),
                memory_request: annotations.or("sidecar.istio.io/proxyMemory", "16Mi"),
                cpu_limit: annotations
                    .text("sidecar.istio.io/proxyCPULimit")
                    .map(str::to_owned),
                memory_limit: annotations
                    .text("sidecar.istio.io/proxyMemoryLimit")
                    .map(str::to_owned),
            },
            readiness: Readiness {
                initial_delay: annotations
                    .parsed(
                        "readiness.status.sidecar.istio.io/initialDelaySeconds",
                        number,
                    )?
                    .unwrap_or(0),
                period: annotations
                    .parsed("readiness.status.sidecar.istio.io/periodSeconds", number)?
                    .unwrap_or(15),
                failures: annotations
                    .parsed("readiness.status.sidecar.istio.io/failureThreshold", number)?
                    .unwrap_or(4),
            },
            status_port: status_port.or(config.status_port).unwrap_or(15021),
            concurrency: config.concurrency,
            termination_drain,
            dns_capture: config
                .proxy_metadata
                .get("ISTIO_META_DNS_CAPTURE")
                .is_some_and(|v| v == "true"),
            environment: config.proxy_metadata,
        })
    }
}

const CONFIG: &str = "proxy.istio.io/config";

fn proxy_config(
    annotations: &Annotations<'_>,
    warnings: &mut Vec<String>,
) -> Result<ProxyConfig, BadAnnotation> {
    let Some(text) = annotations.text(CONFIG) else {
        return Ok(ProxyConfig::default());
    };
    let config: ProxyConfig =
        serde_saphyr::from_str(text).map_err(|_| bad(CONFIG, text, "a ProxyConfig in YAML"))?;
    for field in config.rest.keys() {
        warnings.push(format!(
            "pod annotation {CONFIG}: the field {field} is not honoured by this version of Malla"
        ));
    }
    Ok(config)
}

fn capture(annotations: &Annotations<'_>, config: &ProxyConfig) -> Result<Capture, BadAnnotation> {
    const MODE: &str = "sidecar.istio.io/interceptionMode";
    let text = annotations
        .text(MODE)
        .or(config.interception_mode.as_deref())
        .unwrap_or("REDIRECT");
    match text {
        "REDIRECT" => Ok(Capture::Redirect),
        "TPROXY" => Ok(Capture::Tproxy),
        "NONE" => Ok(Capture::None),
        other => Err(bad(MODE, other, "REDIRECT, TPROXY or NONE")),
    }
}

/// The init step would refuse bad lists too, but only once the pod exists; say it at once.
fn check_redirect(redirect: &Redirect) -> Result<(), BadAnnotation> {
    let settings = malla_redirect::Settings {
        outbound_ranges: redirect.outbound_ranges.clone(),
        exclude_outbound_ranges: redirect.exclude_outbound_ranges.clone(),
        inbound_ports: redirect.inbound_ports.clone(),
        exclude_inbound_ports: redirect.exclude_inbound_ports.clone(),
        outbound_ports: redirect.outbound_ports.clone(),
        exclude_outbound_ports: redirect.exclude_outbound_ports.clone(),
        ..malla_redirect::Settings::default()
    };
    match malla_redirect::Plan::try_from(&settings) {
        Ok(_) => Ok(()),
        Err(e) => Err(BadAnnotation {
            annotation: format!("traffic.sidecar.istio.io/* ({})", e.setting),
            value: e.value,
            expected: e.expected,
        }),
    }
}

/// Go-style durations of one unit, `5s`, `500ms`, `1m`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(split)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}
