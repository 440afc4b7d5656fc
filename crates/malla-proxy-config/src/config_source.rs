//! Where resources come from: the aggregated stream, a server for one type, or a file.
//!
//! Source: `envoy.config.core.v3.ConfigSource`. Sources compare by what they say, so two resources that name the same server
//! share one stream.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::grpc_service::GrpcService;
use crate::pb::core;

/// Envoy's `initial_fetch_timeout`.
const DEFAULT_FIRST_FETCH: Duration = Duration::from_secs(15);

/// A source, and how patient its user is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSource {
    /// Where from.
    pub from: Origin,
    /// How long whoever needs the resource waits for its first version; `None` waits for ever.
    pub first_fetch: Option<Duration>,
}

/// Where from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The bootstrap's `ads_config`.
    Ads,
    /// A server that is asked for this type alone.
    Grpc(Arc<GrpcOrigin>),
    /// A file that holds a `DiscoveryResponse`.
    Path(Arc<PathOrigin>),
    /// Nothing is fetched: a secret of the bootstrap.
    Bootstrap,
}

/// A server that speaks xDS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcOrigin {
    /// Only differences travel (`DELTA_GRPC`).
    pub delta: bool,
    /// Through which cluster, and what is said at the start.
    pub service: GrpcService,
}

/// A file, and what tells that it was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathOrigin {
    /// The file: YAML, JSON, or binary (`.pb`).
    pub path: Arc<Path>,
    /// A directory: whatever is moved into it is a change. Without it, only the file's own name counts.
    pub watched_directory: Option<Arc<Path>>,
}

/// A resource that another one needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: ConfigSource,
}

impl ConfigSource {
    /// The aggregated stream, with Envoy's patience.
    pub fn ads() -> Self {
        Self {
            from: Origin::Ads,
            first_fetch: Some(DEFAULT_FIRST_FETCH),
        }
    }

    /// Something the bootstrap holds.
    pub fn bootstrap() -> Self {
        Self {
            from: Origin::Bootstrap,
            first_fetch: None,
        }
    }

    pub(crate) fn parse(wire: core::ConfigSource, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::config_source::ConfigSourceSpecifier as Wire;
        let core::ConfigSource {
            authorities,
            initial_fetch_timeout,
            resource_api_version: _,
            config_source_specifier,
        } = wire;
        refuse!(cx; authorities);
        let from = match cx.required("config_source_specifier", config_source_specifier)? {
            Wire::Ads(core::AggregatedConfigSource {}) => Origin::Ads,
            Wire::ApiConfigSource(api) => {
                Origin::Grpc(Arc::new(cx.field("api_config_source", |cx| {
                    GrpcOrigin::parse(api, false, cx)
                })?))
            }
            Wire::PathConfigSource(file) => Origin::Path(Arc::new(
                cx.field("path_config_source", |cx| PathOrigin::parse(file, cx))?,
            )),
            Wire::Path(path) => Origin::Path(Arc::new(cx.field("path", |cx| {
                PathOrigin::parse(
                    core::PathConfigSource {
                        path,
                        ..core::PathConfigSource::default()
                    },
                    cx,
                )
            })?)),
            Wire::Self_(core::SelfConfigSource { .. }) => {
                return Err(cx.invalid("self", "not supported by this proxy; use ads"));
            }
        };
        let first_fetch = cx
            .duration("initial_fetch_timeout", initial_fetch_timeout)?
            .unwrap_or(DEFAULT_FIRST_FETCH);
        Ok(Self {
            from,
            first_fetch: (!first_fetch.is_zero()).then_some(first_fetch),
        })
    }
}

impl GrpcOrigin {
    /// Parses an `ApiConfigSource`; the one of the aggregated stream may also be spelled `AGGREGATED_…`.
    pub(crate) fn parse(
        wire: core::ApiConfigSource,
        aggregated: bool,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use core::api_config_source::ApiType;
        let core::ApiConfigSource {
            api_type,
            transport_api_version,
            cluster_names,
            grpc_services,
            refresh_delay,
            request_timeout,
            rate_limit_settings,
            set_node_on_first_message_only: _,
            config_validators,
        } = wire;
        refuse!(cx; cluster_names, config_validators);
        // The first two belong to REST; requests of ours follow answers, so there are never many.
        ignorable!(cx; refresh_delay, request_timeout, rate_limit_settings);
        let delta = match cx.enumeration("api_type", api_type)? {
            ApiType::Grpc => false,
            ApiType::DeltaGrpc => true,
            ApiType::AggregatedGrpc if aggregated => false,
            ApiType::AggregatedDeltaGrpc if aggregated => true,
            other => {
                let reason = format!(
                    "{} is not supported by this proxy; use GRPC or DELTA_GRPC",
                    other.as_str_name()
                );
                return Err(cx.invalid("api_type", reason));
            }
        };
        if transport_api_version != core::ApiVersion::V3 as i32 {
            return Err(cx.invalid("transport_api_version", "must be V3"));
        }
        let mut services = grpc_services.into_iter();
        let service = cx.required("grpc_services", services.next())?;
        if services.next().is_some() {
            return Err(cx.invalid(
                "grpc_services[1]",
                "a second server is not supported by this proxy",
            ));
        }
        let service = cx.field("grpc_services[0]", |cx| GrpcService::parse(service, cx))?;
        Ok(Self { delta, service })
    }
}

impl PathOrigin {
    fn parse(wire: core::PathConfigSource, cx: &mut Cx) -> Result<Self, Invalid> {
        let core::PathConfigSource {
            path,
            watched_directory,
            poll_interval,
        } = wire;
        refuse!(cx; poll_interval);
        if path.is_empty() {
            return Err(cx.invalid("path", "is required"));
        }
        Ok(Self {
            path: Arc::from(Path::new(&path)),
            watched_directory: directory(watched_directory, cx)?,
        })
    }
}

/// A `WatchedDirectory`.
pub(crate) fn directory(
    wire: Option<core::WatchedDirectory>,
    cx: &mut Cx,
) -> Result<Option<Arc<Path>>, Invalid> {
    let Some(wire) = wire else { return Ok(None) };
    cx.field("watched_directory", |cx| {
        let core::WatchedDirectory { path, watch_modify } = wire;
        refuse!(cx; watch_modify);
        if path.is_empty() {
            return Err(cx.invalid("path", "is required"));
        }
        Ok(Some(Arc::from(Path::new(&path))))
    })
}

#[cfg(test)]
mod tests {
    use super::{ConfigSource, Origin};
    use crate::checked::Cx;
    use crate::pb::core;
    use malla_xds_proto::json;

    fn parse(yaml: &str) -> Result<ConfigSource, String> {
        let wire: core::ConfigSource = json::from_yaml(yaml).unwrap();
        Cx::check(|cx| ConfigSource::parse(wire, cx))
            .map(|checked| checked.value)
            .map_err(|invalid| invalid.to_string())
    }

    const GRPC: &str = "api_config_source: { api_type: DELTA_GRPC, transport_api_version: V3, \
                        grpc_services: [ { envoy_grpc: { cluster_name: xds }, initial_metadata: [ { key: a, value: b } ] } ] }";

    #[test]
    fn each_kind_of_source_is_read() {
        assert_eq!(parse("ads: {}").unwrap(), ConfigSource::ads());
        let grpc = parse(GRPC).unwrap();
        let Origin::Grpc(origin) = &grpc.from else {
            panic!("{grpc:?}")
        };
        assert!(origin.delta);
        assert_eq!(&*origin.service.cluster, "xds");
        assert_eq!(origin.service.metadata.len(), 1);
        assert_eq!(
            grpc,
            parse(GRPC).unwrap(),
            "the same source is equal to itself"
        );
        let path = parse(
            "{ path_config_source: { path: /a/b.yaml, watched_directory: { path: /a } }, initial_fetch_timeout: 0s }",
        )
        .unwrap();
        let Origin::Path(origin) = &path.from else {
            panic!("{path:?}")
        };
        assert_eq!(origin.path.to_str(), Some("/a/b.yaml"));
        assert_eq!(path.first_fetch, None);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let check = |yaml: &str, want: &str| {
            let got = parse(yaml).unwrap_err();
            assert!(got.contains(want), "{yaml}\n{got}");
        };
        check("self: {}", "self: not supported");
        check("{}", "config_source_specifier: is required");
        check(
            &GRPC.replace("DELTA_GRPC", "REST"),
            "api_config_source.api_type: REST is not supported",
        );
        check(
            &GRPC.replace("V3", "V2"),
            "transport_api_version: must be V3",
        );
        check("path_config_source: { path: '' }", "path: is required");
    }
}
