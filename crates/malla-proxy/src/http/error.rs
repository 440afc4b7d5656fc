//! What can go wrong with a request, and the one place that says what the client gets for it.
//!
//! Words, flags and details are Envoy's: people grep for them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::adaptor::Broken;
use super::body::Flow;
use crate::telemetry::flags::Flag;
use crate::telemetry::stats::HttpStats;
use crate::upstream::{ResetKind, SendError, StreamError};

/// Why a request is answered here and not by an upstream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProxyError {
    /// A resource of the proxy is short.
    Overloaded,
    /// HTTP/1.0 where it is not accepted.
    LowVersion,
    /// A body that cannot be read.
    BadBody,
    /// A body that is not what a filter was told it is.
    NotAsSaid(Broken),
    /// The client went away before it had sent all.
    ClientGone,
    /// No host.
    MissingHost,
    /// A host that is none.
    InvalidHost,
    /// A target that is not a path.
    AbsolutePath,
    /// A path that cannot be normalised.
    BadPath,
    /// A header name with an underscore.
    Underscore,
    /// More header fields or bytes than allowed.
    HeadersTooLarge,
    /// Sent to the normalised path.
    PathRedirect {
        /// That path.
        location: HeaderValue,
    },
    /// An upgrade that is not configured.
    UpgradeRefused,
    /// No virtual host or route fits.
    NoRoute,
    /// The route answers.
    Direct {
        /// With this.
        status: StatusCode,
        /// And this.
        body: Bytes,
    },
    /// The route sends the client elsewhere.
    Redirect {
        /// How.
        status: StatusCode,
        /// Where.
        location: HeaderValue,
    },
    /// A route only for servers.
    NonForwarding,
    /// RBAC says no; the policy that did, if one matched.
    Denied {
        /// Its name.
        policy: Option<Arc<str>>,
    },
    /// An injected abort.
    FaultAbort {
        /// HTTP status.
        status: StatusCode,
        /// gRPC status, where configured.
        grpc: Option<u32>,
    },
    /// A CORS preflight answered here.
    Preflight {
        /// `access-control-*`.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// A filter answers.
    Filter(Box<Verdict>),
    /// The request's body is longer than a filter takes.
    BodyTooLarge,
    /// The route's cluster is not there.
    NoCluster {
        /// The route's answer to that.
        status: StatusCode,
    },
    /// The upstream gave no answer.
    Upstream {
        /// Why the last try failed.
        error: SendError,
        /// There were tries before.
        retried: bool,
    },
    /// Something took too long.
    Timeout(Timeout),
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// The response, by the route.
    Response {
        /// The client asked for 204 instead of 504 (`x-envoy-upstream-rq-timeout-alt-response`).
        alternative: bool,
    },
    /// One try, and there are none left.
    Try,
    /// The same, for nothing came for too long.
    TryIdle,
    /// The request, until it was there.
    Request,
    /// Progress.
    Idle {
        /// The client was waited for, not the upstream.
        client: bool,
    },
    /// The stream as a whole.
    Stream {
        /// The request was not there yet.
        client: bool,
    },
    /// The upstream's stream as a whole.
    UpstreamStream,
}

/// gRPC's status code for it.
const GRPC_DEADLINE_EXCEEDED: u32 = 4;

/// What the client gets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// Status.
    pub(crate) status: StatusCode,
    /// Flag for the log.
    pub(crate) flag: Option<Flag>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) details: Cow<'static, str>,
    /// Body.
    pub(crate) body: Bytes,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// gRPC status, where it is not what the HTTP status maps to.
    pub(crate) grpc: Option<u32>,
    /// There is nobody to hear it: the log shows no status.
    pub(crate) unheard: bool,
    /// The connection cannot be used any further.
    pub(crate) close: bool,
}

impl Verdict {
    pub(crate) fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            flag: None,
            details: details.into(),
            body: Bytes::new(),
            headers: Vec::new(),
            grpc: None,
            unheard: false,
            close: false,
        }
    }

    pub(crate) fn flag(self, flag: Flag) -> Self {
        Self {
            flag: Some(flag),
            ..self
        }
    }

    pub(crate) fn body(self, text: &'static str) -> Self {
        Self {
            body: Bytes::from_static(text.as_bytes()),
            ..self
        }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    fn closing(self) -> Self {
        Self {
            close: true,
            ..self
        }
    }
}

impl ProxyError {
    /// Why a request's body could not be read to its end.
    pub(crate) fn of_body(flow: &Flow) -> Self {
        match flow.broken.get() {
            Some(broken) => Self::NotAsSaid(broken),
            None if flow.malformed.get() => Self::BadBody,
            None => Self::ClientGone,
        }
    }

    /// True if the route itself answers: its header edits apply then.
    pub(crate) fn is_from_route(&self) -> bool {
        matches!(self, Self::Direct { .. } | Self::Redirect { .. })
    }

    /// Status, flag, details and body of the answer.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::LowVersion => Verdict::new(StatusCode::UPGRADE_REQUIRED, "low_version")
                .flag(Flag::DownstreamProtocolError)
                .body("Upgrade Required")
                .closing(),
            Self::BadBody => Verdict::new(StatusCode::BAD_REQUEST, "http1.codec_error")
                .flag(Flag::DownstreamProtocolError)
                .body("Bad Request")
                .closing(),
            Self::NotAsSaid(broken) => {
                let verdict = Verdict::new(StatusCode::BAD_REQUEST, broken.details);
                verdict.body(broken.body).closing()
            }
            Self::ClientGone => Verdict {
                unheard: true,
                ..Verdict::new(StatusCode::BAD_REQUEST, "downstream_remote_disconnect")
                    .flag(Flag::DownstreamConnectionTermination)
                    .closing()
            },
            Self::MissingHost => {
                Verdict::new(StatusCode::BAD_REQUEST, "missing_host_header").closing()
            }
            Self::InvalidHost => Verdict::new(StatusCode::BAD_REQUEST, "http.invalid_authority")
                .flag(Flag::DownstreamProtocolError)
                .body("Bad Request")
                .closing(),
            Self::AbsolutePath => Verdict::new(StatusCode::NOT_FOUND, "absolute_path_rejected"),
            Self::BadPath => {
                Verdict::new(StatusCode::BAD_REQUEST, "path_normalization_failed").closing()
            }
            Self::Overloaded => {
                Verdict::new(StatusCode::SERVICE_UNAVAILABLE, "overload").body("envoy overloaded")
            }
            Self::Underscore => {
                Verdict::new(StatusCode::BAD_REQUEST, "http1.unexpected_underscore")
                    .flag(Flag::DownstreamProtocolError)
                    .body("Bad Request")
                    .closing()
            }
            Self::HeadersTooLarge => Verdict::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "request_headers_too_large",
            )
            .closing(),
            Self::PathRedirect { location } => Verdict {
                headers: vec![(http::header::LOCATION, location)],
                ..Verdict::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed")
            },
            Self::UpgradeRefused => Verdict::new(StatusCode::FORBIDDEN, "upgrade_failed").closing(),
            Self::NoRoute => {
                Verdict::new(StatusCode::NOT_FOUND, "route_not_found").flag(Flag::NoRouteFound)
            }
            Self::Direct { status, body } => Verdict {
                body,
                ..Verdict::new(status, "direct_response")
            },
            Self::Redirect { status, location } => Verdict {
                headers: vec![(http::header::LOCATION, location)],
                ..Verdict::new(status, "direct_response")
            },
            Self::NonForwarding => {
                Verdict::new(StatusCode::INTERNAL_SERVER_ERROR, "direct_response")
            }
            Self::Denied { policy } => {
                let policy = policy
                    .as_deref()
                    .unwrap_or("none")
                    .replace([' ', '\t', '\n', '\r'], "_");
                let details = format!("rbac_access_denied_matched_policy[{policy}]");
                Verdict::new(StatusCode::FORBIDDEN, details).body("RBAC: access denied")
            }
            Self::FaultAbort { status, grpc } => Verdict {
                grpc,
                ..Verdict::new(status, "fault_filter_abort")
                    .flag(Flag::FaultInjected)
                    .body("fault filter abort")
            },
            Self::Preflight { headers } => Verdict {
                headers,
                ..Verdict::new(StatusCode::OK, "cors_response")
            },
            Self::Filter(verdict) => *verdict,
            Self::BodyTooLarge => {
                Verdict::new(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large")
                    .body("Payload Too Large")
                    .closing()
            }
            Self::NoCluster { status } => {
                Verdict::new(status, "cluster_not_found").flag(Flag::NoClusterFound)
            }
            Self::Upstream { error, retried } => upstream_verdict(&error, retried),
            Self::Timeout(timeout) => timeout.verdict(),
        }
    }
}

impl Timeout {
    /// Counts it where it belongs to the client's side.
    pub(crate) fn count(self, stats: &HttpStats) {
        match self {
            Self::Idle { .. } => stats.downstream_rq_idle_timeout.inc(),
            Self::Request => stats.downstream_rq_timeout.inc(),
            Self::Stream { .. } => stats.downstream_rq_max_duration_reached.inc(),
            Self::Response { .. } | Self::Try | Self::TryIdle | Self::UpstreamStream => {}
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::Response { alternative } => {
                let (status, body) = if alternative {
                    (StatusCode::NO_CONTENT, "")
                } else {
                    (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")
                };
                Verdict::new(status, "response_timeout")
                    .flag(Flag::UpstreamRequestTimeout)
                    .body(body)
            }
            Self::Try => Verdict::new(StatusCode::GATEWAY_TIMEOUT, "upstream_per_try_timeout")
                .flag(Flag::UpstreamRequestTimeout)
                .body("upstream request timeout"),
            Self::TryIdle => {
                Verdict::new(StatusCode::GATEWAY_TIMEOUT, "upstream_per_try_idle_timeout")
                    .flag(Flag::UpstreamRequestTimeout)
                    .body("upstream request timeout")
            }
            Self::Request => Verdict::new(StatusCode::REQUEST_TIMEOUT, "request_overall_timeout")
                .body("request timeout")
                .closing(),
            Self::Idle { client: true } => {
                Verdict::new(StatusCode::REQUEST_TIMEOUT, "stream_idle_timeout")
                    .flag(Flag::StreamIdleTimeout)
                    .body("stream timeout")
                    .closing()
            }
            Self::Idle { client: false } => {
                Verdict::new(StatusCode::GATEWAY_TIMEOUT, "stream_idle_timeout")
                    .flag(Flag::StreamIdleTimeout)
                    .body("stream timeout")
            }
            Self::Stream { client } => {
                let status = if client {
                    StatusCode::REQUEST_TIMEOUT
                } else {
                    StatusCode::GATEWAY_TIMEOUT
                };
                Verdict {
                    grpc: Some(GRPC_DEADLINE_EXCEEDED),
                    close: client,
                    ..Verdict::new(status, "max_duration_timeout")
                        .body("downstream duration timeout")
                }
            }
            Self::UpstreamStream => Verdict::new(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_max_stream_duration_reached",
            )
            .flag(Flag::UpstreamMaxStreamDurationReached)
            .body("upstream max stream duration reached"),
        }
    }
}

fn upstream_verdict(error: &SendError, retried: bool) -> Verdict {
    let (reason, failure, flag) = match error {
        SendError::NoHealthyHost => {
            return Verdict::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream")
                .flag(Flag::NoHealthyUpstream)
                .body("no healthy upstream");
        }
        SendError::DropOverload { all: false } => {
            return Verdict::new(StatusCode::SERVICE_UNAVAILABLE, "drop_overload")
                .flag(Flag::DropOverload)
                .body("drop overload")
                .header("x-envoy-drop-overload", "true");
        }
        SendError::DropOverload { all: true } => {
            let details = "unconditional_drop_overload";
            return Verdict::new(StatusCode::SERVICE_UNAVAILABLE, details)
                .flag(Flag::UnconditionalDropOverload)
                .body("unconditional drop overload")
                .header("x-envoy-unconditional-drop-overload", "true");
        }
        SendError::Overflow => ("overflow", "", Flag::UpstreamOverflow),
        SendError::Connect {
            reason,
            timeout: false,
        } => (
            "remote connection failure",
            reason.as_str(),
            Flag::UpstreamConnectionFailure,
        ),
        SendError::Connect {
            reason,
            timeout: true,
        } => (
            "connection timeout",
            reason.as_str(),
            Flag::UpstreamConnectionFailure,
        ),
        SendError::Reset(error) => (reset_reason(error), "", reset_flag(error)),
    };
    let retried = if retried {
        "retried and the latest "
    } else {
        ""
    };
    // The transport's reason goes into the log alone: it is no business of the client's.
    let body = format!(
        "upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}"
    );
    let mut details = format!(
        "upstream_reset_before_response_started{{{}",
        reason.replace(' ', "_")
    );
    if !failure.is_empty() {
        details.push('|');
        details.push_str(&failure.replace([' ', '\t', '\n', '\r'], "_"));
    }
    details.push('}');
    let status = match error {
        SendError::Reset(StreamError {
            kind: ResetKind::ProtocolError,
            ..
        }) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let verdict = Verdict {
        body: body.into(),
        ..Verdict::new(status, details)
    }
    .flag(flag);
    if *error == SendError::Overflow {
        verdict.header("x-envoy-overloaded", "true")
    } else {
        verdict
    }
}

/// `Http::Utility::resetReasonToString`.
pub(crate) fn reset_reason(error: &StreamError) -> &'static str {
    match error.kind {
        ResetKind::Remote => "remote reset",
        ResetKind::RemoteRefused => "remote refused stream reset",
        ResetKind::Local | ResetKind::Downstream => "local reset",
        ResetKind::ConnectionTermination => "connection termination",
        ResetKind::ProtocolError => "protocol error",
    }
}

/// The flag of a reset stream.
pub(crate) fn reset_flag(error: &StreamError) -> Flag {
    match error.kind {
        ResetKind::Remote | ResetKind::RemoteRefused => Flag::UpstreamRemoteReset,
        ResetKind::Local | ResetKind::Downstream => Flag::LocalReset,
        ResetKind::ConnectionTermination => Flag::UpstreamConnectionTermination,
        ResetKind::ProtocolError => Flag::UpstreamProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use super::ProxyError;
    use crate::upstream::SendError;

    #[test]
    fn a_refused_connection_reads_as_in_envoy() {
        let error = SendError::Connect {
            reason: "delayed connect error: Connection refused".into(),
            timeout: false,
        };
        let verdict = ProxyError::Upstream {
            error,
            retried: true,
        }
        .verdict();
        assert_eq!(
            verdict.body,
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote \
             connection failure"
        );
        assert_eq!(
            verdict.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
    }
}
