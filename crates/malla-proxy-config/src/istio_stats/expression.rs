//! Values of labels: literals and attributes of requests, joined by `+`, out of CEL and Istio's names for attributes.

use http::HeaderName;

use crate::format::{Field, MetadataSource, Operator, PathOrigin, Plain};

/// The value of a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression(pub Vec<Part>);

/// One operand of `+`.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// As it stands.
    Literal(String),
    /// What an access log would write.
    Logged(Operator),
    /// What is known of who is at the other end.
    Peer(Side, PeerField),
    /// A text in this proxy's own metadata, by its keys.
    Node(Vec<String>),
}

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who calls.
    Downstream,
    /// Who is called.
    Upstream,
}

/// What is told of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerField {
    /// Name of the pod.
    Name,
    /// Its namespace.
    Namespace,
    /// Its deployment.
    Workload,
    /// Its label `app`.
    App,
    /// Its label `version`.
    Version,
    /// Canonical service.
    Service,
    /// Canonical revision.
    Revision,
    /// Its cluster.
    Cluster,
}

/// Longer expressions are nobody's.
const LONGEST: usize = 1024;

impl Expression {
    /// What stands for a value that is not known.
    pub fn unknown() -> Self {
        Self(vec![Part::Literal("unknown".into())])
    }

    /// Reads an expression; the error says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("an expression of more than {LONGEST} bytes"));
        }
        let mut parts = Vec::new();
        let mut rest = text.trim();
        loop {
            let (part, after) = operand(rest)?;
            parts.push(part);
            let after = after.trim_start();
            match after.strip_prefix('+') {
                Some(more) => rest = more.trim_start(),
                None if after.is_empty() => return Ok(Self(parts)),
                None => {
                    return Err(format!(
                        "`{after}` is not understood (literals and attributes, joined by +, are)"
                    ));
                }
            }
        }
    }
}

/// The operand at the start, and what follows it.
fn operand(text: &str) -> Result<(Part, &str), String> {
    if text.starts_with(['\'', '"']) {
        let (literal, rest) = quoted(text)?;
        return Ok((Part::Literal(literal), rest));
    }
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
        .unwrap_or(text.len());
    let (path, mut rest) = text.split_at(end);
    let mut keys = Vec::new();
    while let Some(index) = rest.strip_prefix('[') {
        let (key, after) = quoted(index.trim_start())?;
        rest = after
            .trim_start()
            .strip_prefix(']')
            .ok_or("a [ is not closed")?;
        keys.push(key);
    }
    if !path.is_empty() && path.bytes().all(|byte| byte.is_ascii_digit()) && keys.is_empty() {
        return Ok((Part::Literal(path.to_owned()), rest));
    }
    let part = attribute(path, &keys)
        .ok_or_else(|| format!("`{text}` is no attribute this proxy knows"))?;
    Ok((part, rest))
}

/// A literal in either kind of quotes, without escapes.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        return Err(format!("`{text}` is not in quotes"));
    };
    let body = text.get(1..).unwrap_or_default();
    let (literal, rest) = body
        .split_once(quote)
        .ok_or_else(|| format!("`{text}` has no closing quote"))?;
    if literal.contains('\\') {
        return Err(format!("escapes in `{literal}` are not supported"));
    }
    Ok((literal.to_owned(), rest))
}

fn attribute(path: &str, keys: &[String]) -> Option<Part> {
    if let Some(rest) = path.strip_prefix("node.metadata") {
        let dotted = rest.split('.').filter(|key| !key.is_empty());
        let mut all: Vec<String> = dotted.map(str::to_owned).collect();
        all.extend(keys.iter().cloned());
        return (!all.is_empty()).then_some(Part::Node(all));
    }
    let header = |keys: &[String]| match keys {
        [name] => HeaderName::try_from(name.as_str()).ok(),
        _ => None,
    };
    match path {
        "request.headers" => {
            let field = Field::Header(header(keys)?);
            return Some(Part::Logged(Operator::Request(field, None)));
        }
        "response.headers" => {
            let field = Field::Header(header(keys)?);
            return Some(Part::Logged(Operator::Response(field, None)));
        }
        _ if !keys.is_empty() => return metadata(path, keys),
        _ => {}
    }
    if let Some((side, field)) = peer(path) {
        return Some(Part::Peer(side, field));
    }
    let request = |field| Operator::Request(field, None);
    let named = |name: &'static str| request(Field::Header(HeaderName::from_static(name)));
    Some(Part::Logged(match path {
        "request.method" => request(Field::Method),
        "request.host" => request(Field::Authority),
        "request.path" => request(Field::Path),
        "request.scheme" => request(Field::Scheme),
        "request.useragent" => named("user-agent"),
        "request.referer" => named("referer"),
        "request.id" => named("x-request-id"),
        "request.url_path" => Operator::Path {
            query: false,
            original: PathOrigin::Current,
        },
        other => Operator::Plain(plain(other)?),
    }))
}

fn plain(path: &str) -> Option<Plain> {
    Some(match path {
        "request.protocol" => Plain::Protocol,
        "response.code" => Plain::ResponseCode,
        "response.code_details" => Plain::ResponseCodeDetails,
        "response.flags" => Plain::ResponseFlags,
        "response.grpc_status" => Plain::GrpcStatusNumber,
        "source.address" => Plain::DownstreamRemoteAddress,
        "destination.address" => Plain::DownstreamLocalAddress,
        "destination.port" => Plain::DownstreamLocalPort,
        "connection.requested_server_name" => Plain::RequestedServerName,
        "connection.tls_version" => Plain::DownstreamTlsVersion,
        "upstream.address" => Plain::UpstreamHost,
        "upstream.local_address" => Plain::UpstreamLocalAddress,
        "xds.cluster_name" => Plain::UpstreamCluster,
        "xds.route_name" => Plain::RouteName,
        _ => return None,
    })
}

fn peer(path: &str) -> Option<(Side, PeerField)> {
    let (side, field) = match path.split_once('.')? {
        ("downstream_peer", field) => (Side::Downstream, field),
        ("upstream_peer", field) => (Side::Upstream, field),
        _ => return None,
    };
    let field = match field {
        "name" => PeerField::Name,
        "namespace" => PeerField::Namespace,
        "workload" => PeerField::Workload,
        "app" => PeerField::App,
        "version" => PeerField::Version,
        "service" => PeerField::Service,
        "revision" => PeerField::Revision,
        "cluster" => PeerField::Cluster,
        _ => return None,
    };
    Some((side, field))
}

/// `xds.cluster_metadata.filter_metadata['istio']['x']` and its like for routes and hosts.
fn metadata(path: &str, keys: &[String]) -> Option<Part> {
    let source = match path {
        "xds.cluster_metadata.filter_metadata" => MetadataSource::Cluster,
        "xds.route_metadata.filter_metadata" => MetadataSource::Route,
        "xds.upstream_host_metadata.filter_metadata" => MetadataSource::UpstreamHost,
        _ => return None,
    };
    let (namespace, path) = keys.split_first()?;
    Some(Part::Logged(Operator::Metadata {
        source,
        namespace: namespace.clone(),
        path: path.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::{Expression, Part, PeerField, Side};

    #[test]
    fn literals_and_attributes_are_understood() {
        let check = |text: &str, parts: usize| {
            let parsed = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.0.len(), parts, "{text}");
        };
        check("'x'", 1);
        check("\"x\" + request.host", 2);
        check(" request.headers['x-a'] + '/' + response.code ", 3);
        check("node.metadata['LABELS']['app']", 1);
        check("xds.cluster_metadata.filter_metadata['istio']['config']", 1);
        check("12", 1);
        let parsed = Expression::parse("upstream_peer.cluster").unwrap();
        assert_eq!(parsed.0, [Part::Peer(Side::Upstream, PeerField::Cluster)]);
    }

    #[test]
    fn anything_else_is_an_error_and_no_panic() {
        for text in [
            "",
            "'",
            "'a",
            "a +",
            "+",
            "request.headers[",
            "request.headers['a'",
            "request.headers[a]",
            "has(request.host)",
            "a ? 'b' : 'c'",
            "'a\\'b'",
            "request.headers['é']",
            "é",
            &"x".repeat(2000),
        ] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,60}") {
            let _ = Expression::parse(&text);
        }
    }
}
