//! TCP through an HTTP proxy: CONNECT, or POST to a path (`TunnelingConfig`).

use http::HeaderName;
use http::uri::PathAndQuery;

use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};
use crate::format::Format;
use crate::headers::HeaderAdd;
use crate::pb::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use crate::pb::extensions::filters::network::tcp_proxy::v3::tcp_proxy::TunnelingConfig;

/// How a tunnel is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Tunnel {
    /// The host it is to lead to.
    pub host: Format,
    /// POST to this path instead of CONNECT.
    pub post: Option<PathAndQuery>,
    /// Added to the request.
    pub headers: Vec<HeaderAdd>,
    /// Carries an id made for each tunnel.
    pub request_id: Option<HeaderName>,
    /// The id's key in the dynamic metadata of the connection (namespace `envoy.filters.network.tcp_proxy`).
    pub request_id_key: String,
}

impl Tunnel {
    pub(super) fn parse(wire: TunnelingConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let TunnelingConfig {
            hostname,
            use_post,
            headers_to_add,
            propagate_response_headers,
            post_path,
            propagate_response_trailers,
            request_id_extension,
            request_id_header,
            request_id_metadata_key,
            formatters,
        } = wire;
        refuse!(cx; formatters);
        // They only serve filters of Envoy's own making that read its filter state.
        ignorable!(cx; propagate_response_headers, propagate_response_trailers);
        if hostname.is_empty() {
            return Err(cx.invalid("hostname", "is required"));
        }
        if !post_path.is_empty() && !use_post {
            return Err(cx.invalid("post_path", "takes `use_post: true`"));
        }
        let path = if post_path.is_empty() {
            "/"
        } else {
            post_path.as_str()
        };
        let path: PathAndQuery = path
            .parse()
            .map_err(|_| cx.invalid("post_path", "is not a path"))?;
        let request_id = match request_id_extension {
            None => None,
            Some(extension) => {
                cx.field("request_id_extension", |cx| check_extension(extension, cx))?;
                let name = match request_id_header.as_str() {
                    "" => "x-request-id",
                    name => name,
                };
                let name = name.parse::<HeaderName>();
                Some(name.map_err(|_| cx.invalid("request_id_header", "is not a header name"))?)
            }
        };
        Ok(Self {
            host: Format::compile(&hostname).map_err(|reason| cx.invalid("hostname", reason))?,
            post: use_post.then_some(path),
            headers: cx.each("headers_to_add", headers_to_add, HeaderAdd::parse)?,
            request_id,
            request_id_key: if request_id_metadata_key.is_empty() {
                "tunnel_request_id".into()
            } else {
                request_id_metadata_key
            },
        })
    }
}

/// There is one kind of request ids.
fn check_extension(wire: RequestIdExtension, cx: &mut Cx) -> Result<(), Invalid> {
    let any = cx.required("typed_config", wire.typed_config)?;
    let name = type_name(&any);
    if name == "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" {
        Ok(())
    } else {
        Err(cx.invalid(
            "typed_config",
            format!("{name} is not supported by this proxy"),
        ))
    }
}
