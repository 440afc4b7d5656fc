//! What users write: the specs of the Gateway API's kinds.

mod backend_tls_policy;
mod gateway;
mod grpc_route;
mod http_route;
mod shared;
mod stream_route;

pub use backend_tls_policy::{
    BackendTlsPolicySpec, BackendValidation, LocalRef, PolicyTarget, SubjectAltName,
};
pub use gateway::{
    AllowedListeners, AllowedRoutes, CertificateRef, ClientValidation, FrontendTls,
    FrontendValidation, GatewayAddress, GatewayClassSpec, GatewaySpec, GatewayTls, Infrastructure,
    Listener, ListenerSetSpec, ListenerTls, ParametersRef, ParentGatewayRef, RouteGroupKind,
    RouteNamespaces,
};
pub use grpc_route::{GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule};
pub use http_route::{
    CorsFilter, Fraction, HeaderFilter, HttpBackendRef, HttpFilter, HttpMatch, HttpPathMatch,
    HttpRouteSpec, HttpRule, HttpTimeouts, MirrorFilter, NameMatch, NameValue, PathModifier,
    RedirectFilter, RetryRule, RewriteFilter,
};
pub use shared::{
    BackendRef, GrantFrom, GrantTo, LabelRequirement, LabelSelector, ParentRef, ReferenceGrantSpec,
};
pub use stream_route::{StreamRule, TcpRouteSpec, TlsRouteSpec};
