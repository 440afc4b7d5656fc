//! The one route of an inbound listener: to the workload.

use malla_xds_proto::route::route::Action;
use malla_xds_proto::route::route_action::{ClusterSpecifier, MaxStreamDuration};
use malla_xds_proto::route::{Decorator, Route, RouteAction, RouteConfiguration, VirtualHost};
use malla_xds_proto::wkt;

use super::{DEFAULT_ROUTE, NO_TIMEOUT, matching, retry};
use crate::view::View;

/// `port` is the service's; `cluster` names the one of the port the workload listens on.
/// gRPC is not retried: its clients do that themselves.
pub(crate) fn configuration(
    view: &View<'_>,
    cluster: &str,
    port: u16,
    operation: &str,
    retried: bool,
) -> RouteConfiguration {
    let route = Route {
        name: DEFAULT_ROUTE.into(),
        r#match: Some(matching::everything()),
        decorator: Some(Decorator {
            operation: operation.to_owned(),
            ..Decorator::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            timeout: Some(NO_TIMEOUT),
            max_stream_duration: Some(MaxStreamDuration {
                max_stream_duration: Some(NO_TIMEOUT),
                grpc_timeout_header_max: Some(NO_TIMEOUT),
                ..MaxStreamDuration::default()
            }),
            retry_policy: retried
                .then(|| retry::inbound(&view.mesh.settings))
                .flatten(),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".into()],
            routes: vec![route],
            ..VirtualHost::default()
        }],
        validate_clusters: Some(wkt::boolean(false)),
        ..RouteConfiguration::default()
    }
}
