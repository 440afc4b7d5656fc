//! An Envoy bootstrap file: the static resources and the admin address.

use crate::address::Address;
use crate::checked::{Checked, Cx, Invalid, ignorable, refuse};
use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::metadata::{Object, parse_struct};
use crate::pb::{bootstrap as pb, core};
use crate::secret::Secret;
use crate::snapshot::Draft;

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
        Cx::check(|cx| Self::parse(wire, cx))
    }

    fn parse(wire: pb::Bootstrap, cx: &mut Cx) -> Result<Self, Invalid> {
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
            layered_runtime,
            admin,
            overload_manager,
            enable_dispatcher_stats,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
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
        refuse!(cx; dynamic_resources, hds_config, stats_sinks, header_prefix, use_tcp_for_dns_lookups,
            dns_resolution_config, bootstrap_extensions, config_sources, default_config_source,
            certificate_provider_instances, default_regex_engine, default_socket_interface);
        // Tuning of Envoy's own machinery; there is no runtime layer, so defaults in the resources rule.
        ignorable!(cx; node_context_params, cluster_manager, flags_path, deferred_stat_options, stats_config,
            stats_flush_interval, watchdog, watchdogs, tracing, layered_runtime, overload_manager,
            enable_dispatcher_stats, stats_server_version_override, typed_dns_resolver_config, fatal_actions,
            inline_headers, perf_tracing_file_path, xds_delegate_extension, xds_config_tracker_extension,
            listener_manager, application_log_config, grpc_async_client_manager_config, memory_allocator_manager,
            enable_worker_cpu_affinity, stats_flush, stats_eviction);
        let admin = match admin {
            None => None,
            Some(admin) => cx.field("admin", |cx| parse_admin(admin, cx))?,
        };
        let pb::bootstrap::StaticResources {
            listeners,
            clusters,
            secrets,
        } = static_resources.unwrap_or_default();
        cx.field("static_resources", |cx| {
            Ok(Self {
                node: Node::parse(node.unwrap_or_default()),
                admin,
                listeners: cx.each("listeners", listeners, Listener::parse)?,
                clusters: cx.each("clusters", clusters, Cluster::parse)?,
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
                "{HCM}.route_config.virtual_hosts[0].routes[0].route.retry_policy.rate_limited_retry_back_off: not supported by this proxy; remove the field"
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
            "type: STATIC",
            "type: STATIC\n    health_checks: [ { timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {} } ]",
            "static_resources.clusters[0].health_checks: not supported by this proxy; remove the field",
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
