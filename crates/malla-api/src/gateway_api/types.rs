//! What users write: the specs of the Gateway API's kinds.

mod gateway;
mod http_route;
mod shared;

pub use gateway::{
    AllowedRoutes, CertificateRef, ClientValidation, FrontendTls, FrontendValidation,
    GatewayAddress, GatewayClassSpec, GatewaySpec, GatewayTls, Infrastructure, Listener,
    ListenerTls, ParametersRef, RouteGroupKind, RouteNamespaces,
};
pub use http_route::{
    CorsFilter, Fraction, HeaderFilter, HttpBackendRef, HttpFilter, HttpMatch, HttpPathMatch,
    HttpRouteSpec, HttpRule, HttpTimeouts, MirrorFilter, NameMatch, NameValue, PathModifier,
    RedirectFilter, RetryRule, RewriteFilter,
};
pub use shared::{
    BackendRef, GrantFrom, GrantTo, LabelRequirement, LabelSelector, ParentRef, ReferenceGrantSpec,
};
