//! MeshConfig: the mesh-wide settings, from the ConfigMap's `mesh` key.
//!
//! A broken document changes nothing: the caller keeps the settings it has. A field with a value
//! that cannot be read keeps its default and is reported, like every field that is not acted on.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use malla_model::settings::{OutboundPolicy, PathNormalization};
use malla_model::{MeshSettings, TrustDomain};

use super::{Lowered, NotHonoured, http, providers, traffic_policy};
use crate::duration;
use crate::istio::http_action::HttpRetry;
use crate::istio::traffic_policy::{LocalityLbSetting, TcpKeepalive};

/// Why a document is no MeshConfig.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the mesh configuration cannot be read: {reason} (expected YAML of Istio's MeshConfig)")]
pub struct NotAMeshConfig {
    pub reason: String,
}

/// Reads MeshConfig's YAML over `defaults`.
///
/// # Errors
/// When the text is no YAML mapping.
pub fn lower(text: &str, defaults: &MeshSettings) -> Result<Lowered<MeshSettings>, NotAMeshConfig> {
    let refuse = |reason: String| NotAMeshConfig { reason };
    let document: Value = match text.trim() {
        "" => Value::Object(serde_json::Map::new()),
        text => serde_saphyr::from_str(text).map_err(|error| refuse(error.to_string()))?,
    };
    let Value::Object(fields) = document else {
        return Err(refuse("it is not a mapping".into()));
    };
    let mut lowered = Lowered {
        value: defaults.clone(),
        not_honoured: Vec::new(),
    };
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let notes = &mut lowered.not_honoured;
        let telemetry = &mut lowered.value.telemetry;
        match name.as_str() {
            "extensionProviders" => {
                telemetry.providers = providers::extension_providers(value, notes);
                continue;
            }
            "defaultProviders" => {
                providers::default_providers(value, telemetry, notes);
                continue;
            }
            "defaultConfig" => {
                providers::default_config(value, telemetry, notes);
                continue;
            }
            _ => {}
        }
        if let Err(why) = set(&mut lowered.value, name, value) {
            lowered.not_honoured.push(NotHonoured {
                path: name.clone(),
                why: why.into(),
            });
        }
    }
    lowered.not_honoured.extend(unread_parts(&fields));
    lowered.not_honoured.sort();
    Ok(lowered)
}

const NOT_TEXT: &str = "is not a text, so the default stays";
const NOT_BOOL: &str = "is neither true nor false, so the default stays";
const NOT_DURATION: &str = "is not a duration such as 10s, so the default stays";
const UNKNOWN_MODE: &str = "is not a known mode, so the default stays";
const NOT_YET: &str = "Malla does not act on it yet";

fn set(settings: &mut MeshSettings, name: &str, value: &Value) -> Result<(), &'static str> {
    let text = || value.as_str().ok_or(NOT_TEXT);
    let flag = || value.as_bool().ok_or(NOT_BOOL);
    let time = || duration::parse(text()?).map_err(|_| NOT_DURATION);
    match name {
        "rootNamespace" => settings.root_namespace = text()?.into(),
        "trustDomain" => settings.trust_domain = TrustDomain::new(text()?),
        "trustDomainAliases" => settings.trust_domain_aliases = trust_domains(value)?,
        "connectTimeout" => settings.connect_timeout = time()?,
        "protocolDetectionTimeout" => {
            settings.protocol_detection_timeout = Some(time()?).filter(|time| !time.is_zero());
        }
        "enableAutoMtls" => settings.auto_mtls = flag()?,
        "enableTracing" => settings.telemetry.tracing_enabled = flag()?,
        "accessLogFile" => {
            settings.access_log_file = Some(text()?).filter(|t| !t.is_empty()).map(Into::into)
        }
        "accessLogFormat" => {
            settings.access_log_format = Some(text()?).filter(|t| !t.is_empty()).map(Into::into)
        }
        "accessLogEncoding" => {
            settings.access_log_json = match text()? {
                "JSON" => true,
                "TEXT" => false,
                _ => return Err(UNKNOWN_MODE),
            };
        }
        "outboundTrafficPolicy" => match value.get("mode").and_then(Value::as_str) {
            None => {}
            Some("ALLOW_ANY") => settings.outbound = OutboundPolicy::AllowAny,
            Some("REGISTRY_ONLY") => settings.outbound = OutboundPolicy::RegistryOnly,
            Some(_) => return Err(UNKNOWN_MODE),
        },
        "inboundTrafficPolicy" => match value.get("mode").and_then(Value::as_str) {
            None => {}
            Some("PASSTHROUGH") => settings.inbound_loopback = false,
            Some("LOCALHOST") => settings.inbound_loopback = true,
            Some(_) => return Err(UNKNOWN_MODE),
        },
        "localityLbSetting" => {
            settings.locality = traffic_policy::locality(&part::<LocalityLbSetting>(value)?);
        }
        "tcpKeepalive" => {
            settings.tcp_keepalive = Some(traffic_policy::keepalive(&part::<TcpKeepalive>(value)?));
        }
        "h2UpgradePolicy" => {
            settings.h2_upgrade = match text()? {
                "UPGRADE" => true,
                "DO_NOT_UPGRADE" => false,
                _ => return Err(UNKNOWN_MODE),
            };
        }
        "dnsRefreshRate" => settings.dns_refresh = time()?,
        "disableEnvoyListenerLog" => settings.listener_log = !flag()?,
        "pathNormalization" => {
            let mode = value.get("normalization").and_then(Value::as_str);
            settings.path_normalization = match mode {
                None | Some("DEFAULT" | "BASE") => PathNormalization::Base,
                Some("NONE") => PathNormalization::None,
                Some("MERGE_SLASHES") => PathNormalization::MergeSlashes,
                Some("DECODE_AND_MERGE_SLASHES") => PathNormalization::DecodeAndMergeSlashes,
                Some(_) => return Err(UNKNOWN_MODE),
            };
        }
        "defaultHttpRetryPolicy" => {
            settings.retries = Some(http::retries(&part::<HttpRetry>(value)?));
        }
        "defaultInboundHttpRetryPolicy" => {
            settings.inbound_retries = Some(http::retries(&part::<HttpRetry>(value)?));
        }
        "defaultServiceExportTo" => settings.export.services = names(value)?,
        "defaultVirtualServiceExportTo" => settings.export.virtual_services = names(value)?,
        "defaultDestinationRuleExportTo" => settings.export.destination_rules = names(value)?,
        _ => return Err(NOT_YET),
    }
    Ok(())
}

const MALFORMED: &str = "is malformed, so the default stays";

/// A part that has the form it has elsewhere in the API.
fn part<T: DeserializeOwned>(value: &Value) -> Result<T, &'static str> {
    T::deserialize(value).map_err(|_| MALFORMED)
}

fn names(value: &Value) -> Result<Vec<Arc<str>>, &'static str> {
    let list = value.as_array().ok_or(MALFORMED)?;
    let names = list.iter().map(|name| name.as_str().map(Arc::from));
    names.collect::<Option<_>>().ok_or(MALFORMED)
}

fn trust_domains(value: &Value) -> Result<Vec<TrustDomain>, &'static str> {
    let list = value
        .as_array()
        .ok_or("is not a list, so the default stays")?;
    list.iter()
        .map(|item| item.as_str().map(TrustDomain::new).ok_or(NOT_TEXT))
        .collect()
}

/// Parts of fields of which only another part is read.
fn unread_parts(fields: &serde_json::Map<String, Value>) -> Vec<NotHonoured> {
    [
        ("inboundTrafficPolicy", "mode"),
        ("outboundTrafficPolicy", "mode"),
        ("pathNormalization", "normalization"),
    ]
    .into_iter()
    .filter_map(|(field, read)| Some((field, read, fields.get(field)?.as_object()?)))
    .flat_map(|(field, read, parts)| {
        let unread = parts.keys().filter(move |part| *part != read);
        unread.map(move |part| NotHonoured {
            path: format!("{field}.{part}"),
            why: NOT_YET.into(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: impl Fn(&mut MeshSettings), not_honoured: &[&str]) {
        let lowered = lower(text, &MeshSettings::default()).unwrap();
        let mut expected = MeshSettings::default();
        want(&mut expected);
        assert_eq!(lowered.value, expected, "{text}");
        let paths: Vec<&str> = lowered
            .not_honoured
            .iter()
            .map(|n| n.path.as_str())
            .collect();
        assert_eq!(paths, not_honoured, "{text}");
    }

    #[test]
    fn mesh_config_is_read_over_the_defaults() {
        check("", |_| {}, &[]);
        check(
            "{trustDomain: td@x, outboundTrafficPolicy: {mode: REGISTRY_ONLY}, connectTimeout: 3s, accessLogFile: /dev/stdout}",
            |s| {
                s.trust_domain = TrustDomain::new("td.x");
                s.outbound = OutboundPolicy::RegistryOnly;
                s.connect_timeout = Duration::from_secs(3);
                s.access_log_file = Some("/dev/stdout".into());
            },
            &[],
        );
        check(
            "{h2UpgradePolicy: UPGRADE, connectTimeout: soon, localityLbSetting: {enabled: false, failover: [{from: a, to: b}]}, \
              ingressClass: x, defaultVirtualServiceExportTo: ['.'], defaultHttpRetryPolicy: {attempts: 5}}",
            |s| {
                s.h2_upgrade = true;
                s.locality.enabled = Some(false);
                s.locality.failover = vec![("a".into(), "b".into())];
                s.export.virtual_services = vec![".".into()];
                s.retries = Some(malla_model::route::Retries {
                    attempts: 5,
                    ..malla_model::route::Retries::default()
                });
            },
            &["connectTimeout", "ingressClass"],
        );
    }

    #[test]
    fn a_broken_document_is_refused() {
        for text in ["[]", "a: [", "just text"] {
            assert!(lower(text, &MeshSettings::default()).is_err(), "{text}");
        }
    }
}
