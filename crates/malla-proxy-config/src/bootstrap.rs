//! An Envoy bootstrap file: the static resources and the admin address.

use std::sync::Arc;

use crate::address::Address;

use crate::checked::{Checked, Cx, Invalid, ignorable, refuse, type_name};
use crate::cluster::{Bind, Cluster, DnsResolver};
use crate::config_source::{ConfigSource, GrpcOrigin};
use crate::listener::Listener;
use crate::metadata::{Object, parse_struct};
use crate::overload::Overload;
use crate::pb::{bootstrap as pb, core, metrics};
use crate::runtime::{Layer, Values};
use crate::secret::Secret;
use crate::snapshot::Draft;
use crate::stats_matcher::StatsMatcher;

/// `envoy.config.bootstrap.v3.Bootstrap`, as far as a file-driven proxy uses it.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: Node,
    /// Where the admin endpoint listens.
    pub admin: Option<Address>,
    /// Listeners, in order.
    pub listeners: Vec<Listener>,
    /// Clusters, in order.
    pub clusters: Vec<Cluster>,
    /// Secrets, in order.
    pub secrets: Vec<Secret>,
    /// What comes from elsewhere.
    pub dynamic: Dynamic,
    /// No more downstream connections than this at once.
    pub max_connections: Option<u64>,
    /// What is done without while a resource is short.
    pub overload: Option<Overload>,
    /// Which statistics there are.
    pub stats: StatsMatcher,
    /// Where connections to clusters come from that do not say it themselves.
    pub bind: Option<Bind>,
}

/// `dynamic_resources`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dynamic {
    /// The server of the aggregated stream.
    pub ads: Option<Arc<GrpcOrigin>>,
    /// Where all clusters come from.
    pub clusters: Option<ConfigSource>,
    /// Where all listeners come from.
    pub listeners: Option<ConfigSource>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Node id.
    pub id: String,
    /// `service-cluster`.
    pub cluster: String,
    /// Metadata.
    pub metadata: Object,
    /// Region, zone, sub-zone.
    pub locality: crate::endpoints::Locality,
}

impl Bootstrap {
    /// Parses a bootstrap; every static resource must be valid.
    pub fn from_proto(wire: pb::Bootstrap) -> Result<Checked<Self>, Invalid> {
        let layers = Self::runtime_layers(&wire)?;
        Self::from_proto_with(wire, &Arc::new(Values::of_static(&layers)))
    }

    /// As [`Self::from_proto`], with the values that its runtime layers have now.
    pub fn from_proto_with(
        wire: pb::Bootstrap,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
    }

    /// The runtime's layers, which must be known before the rest is read.
    pub fn runtime_layers(wire: &pb::Bootstrap) -> Result<Vec<Layer>, Invalid> {
        let layers = wire.layered_runtime.clone();
        Cx::check(|cx| Layer::parse_all(layers, cx)).map(|checked| checked.value)
    }

    fn parse(wire: pb::Bootstrap, cx: &mut Cx) -> Result<Self, Invalid> {
        DnsResolver::in_bootstrap(&wire, cx)?;
        let pb::Bootstrap {
            node,
            node_context_params,
            static_resources,
            dynamic_resources,
            cluster_manager,
            hds_config,
            flags_path,
            stats_sinks,
            deferred_stat_options,
            stats_config,
            stats_flush_interval,
            watchdog,
            watchdogs,
            tracing,
            layered_runtime: _,
            admin,
            overload_manager,
            enable_dispatcher_stats,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups: _,
            dns_resolution_config: _,
            typed_dns_resolver_config: _,
            bootstrap_extensions,
            fatal_actions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            inline_headers,
            perf_tracing_file_path,
            default_regex_engine,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            grpc_async_client_manager_config,
            memory_allocator_manager,
            enable_worker_cpu_affinity,
            stats_flush,
            stats_eviction,
        } = wire;
        refuse!(cx; hds_config, stats_sinks, header_prefix,
            config_sources, default_config_source,
            certificate_provider_instances, default_regex_engine, default_socket_interface);
        // Tuning of Envoy's own machinery.
        ignorable!(cx; node_context_params, flags_path, deferred_stat_options,
            stats_flush_interval, watchdog, watchdogs, tracing,
            enable_dispatcher_stats, stats_server_version_override, fatal_actions,
            inline_headers, perf_tracing_file_path, xds_delegate_extension, xds_config_tracker_extension,
            listener_manager, application_log_config, grpc_async_client_manager_config, memory_allocator_manager,
            enable_worker_cpu_affinity, stats_flush, stats_eviction);
        check_extensions(bootstrap_extensions, cx)?;
        let bind = cx.field("cluster_manager", |cx| {
            parse_manager(cluster_manager.unwrap_or_default(), cx)
        })?;
        let stats = cx.field("stats_config", |cx| {
            parse_stats(stats_config.unwrap_or_default(), cx)
        })?;
        let admin = admin
            .map(|wire| cx.field("admin", |cx| parse_admin(wire, cx)))
            .transpose()?
            .flatten();
        let pb::bootstrap::StaticResources {
            listeners,
            clusters,
            secrets,
        } = static_resources.unwrap_or_default();
        let overload = overload_manager
            .map(|wire| cx.field("overload_manager", |cx| Overload::parse(wire, cx)))
            .transpose()?;
        let max_connections = max_connections(overload.as_ref(), cx);
        let dynamic = cx.field("dynamic_resources", |cx| {
            Dynamic::parse(dynamic_resources.unwrap_or_default(), cx)
        })?;
        cx.field("static_resources", |cx| {
            let mut clusters: Vec<Cluster> = cx.each("clusters", clusters, Cluster::parse)?;
            for cluster in &mut clusters {
                cluster.bind_by(bind.as_ref());
            }
            Ok(Self {
                stats,
                bind,
                dynamic,
                overload: overload.filter(|overload| !overload.actions.is_empty()),
                max_connections,
                node: Node::parse(node.unwrap_or_default()),
                admin,
                listeners: cx.each("listeners", listeners, Listener::parse)?,
                clusters,
                secrets: cx.each("secrets", secrets, Secret::parse)?,
            })
        })
    }

    /// Puts every resource into a draft.
    pub fn apply(self, draft: &mut Draft) {
        for secret in self.secrets {
            draft.put_secret(secret);
        }
        for cluster in self.clusters {
            draft.put_cluster(cluster);
        }
        for mut listener in self.listeners {
            if listener.name.is_empty() {
                // Envoy gives nameless listeners a random name; the address is unique as well.
                listener.name = listener
                    .addresses
                    .first()
                    .map_or_else(String::new, ToString::to_string)
                    .into();
            }
            draft.put_listener(listener);
        }
    }
}

/// Listeners within the process are refused where they are named; that they could be buffered so or so changes nothing.
/// The overload manager's limit of downstream connections, else the one the runtime sets.
fn max_connections(overload: Option<&Overload>, cx: &mut Cx) -> Option<u64> {
    let limit = cx.runtime_integer("overload.global_downstream_max_connections", u64::MAX);
    overload
        .and_then(|overload| overload.max_connections)
        .or((limit != u64::MAX).then_some(limit))
}

fn check_extensions(wire: Vec<core::TypedExtensionConfig>, cx: &mut Cx) -> Result<(), Invalid> {
    let _: Vec<()> = cx.each("bootstrap_extensions", wire, check_extension)?;
    Ok(())
}

fn check_extension(wire: core::TypedExtensionConfig, cx: &mut Cx) -> Result<(), Invalid> {
    const INTERNAL: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
    let any = cx.required("typed_config", wire.typed_config)?;
    match type_name(&any).as_str() {
        INTERNAL => cx.warn("typed_config", "this proxy has no internal listeners"),
        other => {
            let reason = format!("bootstrap extension {other} is not supported by this proxy");
            return Err(cx.invalid("typed_config", reason));
        }
    }
    Ok(())
}

/// Where connections to clusters come from that do not say it.
fn parse_manager(wire: pb::ClusterManager, cx: &mut Cx) -> Result<Option<Bind>, Invalid> {
    let pb::ClusterManager {
        local_cluster_name: _,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation: _,
    } = wire;
    ignorable!(cx; outlier_detection, load_stats_config);
    Bind::parse_optional(upstream_bind_config, cx)
}

fn parse_stats(wire: metrics::StatsConfig, cx: &mut Cx) -> Result<StatsMatcher, Invalid> {
    let metrics::StatsConfig {
        stats_tags,
        use_all_default_tags,
        stats_matcher,
        histogram_bucket_settings,
        allow_default_tag_overrides,
    } = wire;
    ignorable!(cx; stats_tags, use_all_default_tags, histogram_bucket_settings,
        allow_default_tag_overrides);
    let matcher = stats_matcher
        .map(|wire| cx.field("stats_matcher", |cx| StatsMatcher::parse(wire, cx)))
        .transpose()?;
    Ok(matcher.unwrap_or_default())
}

impl Dynamic {
    fn parse(wire: pb::bootstrap::DynamicResources, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::bootstrap::DynamicResources {
            lds_config,
            lds_resources_locator,
            cds_config,
            cds_resources_locator,
            ads_config,
        } = wire;
        refuse!(cx; lds_resources_locator, cds_resources_locator);
        let mut source = |field: &str, wire: Option<core::ConfigSource>| {
            wire.map(|wire| cx.field(field, |cx| ConfigSource::parse(wire, cx)))
                .transpose()
        };
        let (listeners, clusters) = (
            source("lds_config", lds_config)?,
            source("cds_config", cds_config)?,
        );
        let ads = ads_config
            .map(|wire| cx.field("ads_config", |cx| GrpcOrigin::parse(wire, true, cx)))
            .transpose()?;
        Ok(Self {
            ads: ads.map(Arc::new),
            clusters,
            listeners,
        })
    }
}

fn parse_admin(wire: pb::Admin, cx: &mut Cx) -> Result<Option<Address>, Invalid> {
    let pb::Admin {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = wire;
    refuse!(cx; socket_options, allow_paths);
    ignorable!(cx; access_log, access_log_path, profile_path, ignore_global_conn_limit);
    address
        .map(|address| cx.field("address", |cx| Address::parse(address, cx)))
        .transpose()
}

impl Node {
    fn parse(wire: core::Node) -> Self {
        let locality = wire.locality.unwrap_or_default();
        Self {
            id: wire.id,
            cluster: wire.cluster,
            metadata: parse_struct(wire.metadata.unwrap_or_default()),
            locality: crate::endpoints::Locality {
                region: locality.region,
                zone: locality.zone,
                sub_zone: locality.sub_zone,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bootstrap;
    use malla_xds_proto::json;

    fn parse(yaml: &str) -> Result<crate::Checked<Bootstrap>, crate::Invalid> {
        Bootstrap::from_proto(json::from_yaml(yaml).unwrap())
    }

    const GATEWAY: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 19901 } } }
static_resources:
  listeners:
  - name: gateway
    address: { socket_address: { address: 127.0.0.1, port_value: 18081 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "/" }
                route: { cluster: backend, timeout: 0s, retry_policy: { retry_on: "connect-failure,503", num_retries: 2, host_selection_retry_max_attempts: "5", retry_host_predicate: [ { name: envoy.retry_host_predicates.previous_hosts, typed_config: { "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } } ] } }
          http_filters:
          - name: envoy.filters.http.cors
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors }
          - name: envoy.filters.http.fault
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault }
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: backend
    type: STATIC
    lb_policy: LEAST_REQUEST
    load_assignment:
      cluster_name: backend
      endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 18080 } } } } ] } ]
"#;

    #[test]
    fn a_gateway_file_parses() {
        let checked = parse(GATEWAY).unwrap();
        assert_eq!(checked.value.listeners.len(), 1);
        assert_eq!(checked.value.clusters.len(), 1);
        let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].ends_with("`503` is not a condition this proxy knows; it never applies"),
            "{warnings:?}"
        );
    }

    #[test]
    fn extensions_of_istios_bootstrap_are_known() {
        let check = |name: &str| {
            let yaml = format!(
                "bootstrap_extensions: [ {{ name: x, typed_config: {{ '@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: 'type.googleapis.com/{name}', value: {{}} }} }} ]"
            );
            parse(&yaml).map(|checked| checked.warnings.len())
        };
        let internal = check("envoy.extensions.bootstrap.internal_listener.v3.InternalListener");
        assert_eq!(internal.unwrap(), 1);
        let other = check("istio.workload.BootstrapExtension").unwrap_err();
        assert_eq!(
            other.to_string(),
            "bootstrap_extensions[0].typed_config: bootstrap extension istio.workload.BootstrapExtension is not supported by this proxy"
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let check = |from: &str, to: &str, want: &str| {
            let yaml = GATEWAY.replacen(from, to, 1);
            assert_ne!(yaml, GATEWAY, "{from}");
            assert_eq!(parse(&yaml).unwrap_err().to_string(), want);
        };
        const HCM: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
        check(
            "num_retries: 2",
            "num_retries: 2, rate_limited_retry_back_off: { max_interval: 3s }",
            &format!(
                "{HCM}.route_config.virtual_hosts[0].routes[0].route.retry_policy.rate_limited_retry_back_off.reset_headers: takes at least one header"
            ),
        );
        check(
            "envoy.extensions.filters.http.cors.v3.Cors",
            "envoy.extensions.filters.http.lua.v3.Lua",
            &format!(
                "{HCM}.http_filters[0].typed_config: HTTP filter envoy.extensions.filters.http.lua.v3.Lua is not supported by this proxy"
            ),
        );
        check(
            "prefix: \"/\"",
            "safe_regex: { regex: \"(\" }",
            &format!(
                "{HCM}.route_config.virtual_hosts[0].routes[0].match.safe_regex.regex: not a regular expression: regex parse error:     (     ^ error: unclosed group"
            ),
        );
    }
}
