//! The admin endpoint, in Envoy's shapes: `istioctl`, dashboards and scripts written for Envoy read it.
//!
//! Runs beside the control plane connection, never on a worker. Everything it shows is read from shared state; everything
//! it does (drain, quit, health, log level) is one call into its owner.
mod clusters;
mod config_dump;
mod listeners;
mod mask;
mod process;
mod server;
mod stats;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, StatusCode};
use malla_proxy_config::bootstrap::Node;
use malla_proxy_config::stats_matcher::StatsMatcher;
use malla_runtime::drain::DrainWatch;
use malla_runtime::log::LogHandle;
use malla_runtime::ready::Readiness;
use malla_xds_proto::core;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::inventory::Inventory;
use crate::listener::manager::Manager;
use crate::sources::SourcesHandle;
use crate::worker::Shared;

pub use self::server::AdminServer;

/// What the endpoint shows and acts on.
pub struct Admin {
    pub shared: Shared,
    pub manager: Arc<Mutex<Manager>>,
    pub inventory: Inventory,
    pub readiness: Readiness,
    /// The bootstrap, encoded: as messages it would take several times what the proxy runs on.
    pub bootstrap: Bytes,
    /// The bootstrap's node as it was written.
    pub introduction: core::Node,
    pub node: Node,
    /// Which statistics are shown.
    pub stats_matcher: StatsMatcher,
    pub concurrency: usize,
    pub quit: CancellationToken,
    pub drain: DrainWatch,
    pub log: Option<LogHandle>,
    pub started: SystemTime,
    /// Where the configuration comes from, and the runtime.
    pub sources: SourcesHandle,
    /// What counters were at the last `/reset_counters`.
    pub baseline: Arc<Mutex<BTreeMap<String, u64>>>,
    /// `/healthcheck/fail` was called.
    pub failed: Arc<AtomicBool>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("node", &self.node.id)
            .finish_non_exhaustive()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: String,
}

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";

/// Method, path and text of `/help`, which is also what there is.
const COMMANDS: &[(&str, &str)] = &[
    ("/certs", "print certs on machine"),
    (
        "/clusters",
        "upstream cluster status (filter=, format=json)",
    ),
    (
        "/config_dump",
        "dump current Envoy configs (resource=, mask=, name_regex=, include_eds)",
    ),
    ("/contention", "tell how busy each worker is"),
    (
        "/drain_listeners",
        "drain listeners (POST; graceful, inboundonly, skip_exit)",
    ),
    (
        "/healthcheck/fail",
        "cause the server to fail health checks (POST)",
    ),
    (
        "/healthcheck/ok",
        "cause the server to pass health checks (POST)",
    ),
    ("/help", "print out list of admin commands"),
    (
        "/hot_restart_version",
        "print the hot restart compatibility version",
    ),
    (
        "/init_dump",
        "dump what the first configuration still waits for",
    ),
    ("/listeners", "print listener info"),
    (
        "/logging",
        "query/change logging levels (POST; level=, paths=)",
    ),
    ("/memory", "print current allocation/heap usage"),
    ("/quitquitquit", "exit the server (POST)"),
    (
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
    ),
    ("/reset_counters", "reset all counters to zero (POST)"),
    ("/runtime", "print runtime values"),
    (
        "/runtime_modify",
        "add or modify runtime values; an empty value takes an override back (POST; key1=value1&key2=value2)",
    ),
    ("/server_info", "print server version/status information"),
    (
        "/stats",
        "print server stats (usedonly, filter=, invert_filter, type=, format=text|json|prometheus)",
    ),
    (
        "/stats/prometheus",
        "print server stats in prometheus format",
    ),
];

const RUNTIME_USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override";

/// A request's path and query.
#[derive(Debug, Clone)]
pub struct Query {
    pub path: String,
    parameters: Vec<(String, String)>,
}

impl Query {
    pub fn parse(uri: &http::Uri) -> Self {
        Self {
            path: uri.path().to_owned(),
            parameters: parameters(uri.query().unwrap_or_default()),
        }
    }

    /// Adds the parameters of a form that came as the request's body.
    pub fn with_form(mut self, form: &str) -> Self {
        self.parameters.extend(parameters(form));
        self
    }

    /// The value of a parameter; empty if it has none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn first(&self) -> Option<(&str, &str)> {
        self.parameters
            .first()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn parameters(text: &str) -> Vec<(String, String)> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    });
    pairs.collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'+' => out.push(b' '),
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => out.push(b'?'),
            },
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Admin {
    /// Answers one request.
    pub fn answer(&self, method: &Method, query: &Query) -> Answer {
        let post = *method == Method::POST;
        match query.path.as_str() {
            "/ready" => self.ready(),
            "/server_info" => json(&self.server_info()),
            "/config_dump" => match config_dump::dump(self, query) {
                Ok(dump) => json(&dump),
                Err((status, reason)) => text(status, reason),
            },
            "/clusters" if query.get("format") == Some("json") => json(&clusters::as_json(self)),
            "/clusters" => ok(clusters::as_text(self)),
            "/listeners" if query.get("format") == Some("json") => json(&listeners::as_json(self)),
            "/listeners" => ok(listeners::as_text(self)),
            "/stats" => stats::answer(self, query),
            "/stats/prometheus" => stats::prometheus(self, query),
            "/certs" => json(&listeners::certificates(self)),
            "/help" | "/" => ok(help()),
            "/logging" if post || query.first().is_none() => self.logging(query),
            "/drain_listeners" if post => self.drain_listeners(query),
            "/quitquitquit" if post => {
                self.quit.cancel();
                ok("OK\n".to_owned())
            }
            "/healthcheck/fail" if post => self.set_failed(true),
            "/healthcheck/ok" if post => self.set_failed(false),
            "/memory" => process::memory(),
            "/contention" => process::workers(self),
            "/hot_restart_version" => ok("disabled".to_owned()),
            "/init_dump" => json(&self.sources.waiting()),
            "/runtime" => json(&self.sources.runtime()),
            "/runtime_modify" if post => self.modify_runtime(query),
            "/reset_counters" if post => {
                stats::reset(self);
                ok("OK\n".to_owned())
            }
            "/cpuprofiler" | "/heapprofiler" | "/allocprofiler" => text(
                StatusCode::NOT_IMPLEMENTED,
                "this build has no profiler; use perf(1) on the process\n".to_owned(),
            ),
            "/logging" | "/drain_listeners" | "/quitquitquit" | "/healthcheck/fail"
            | "/healthcheck/ok" | "/runtime_modify" | "/reset_counters" => text(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("Method {method} not allowed, POST required."),
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                format!("invalid path. admin commands are:\n{}", help()),
            ),
        }
    }

    fn modify_runtime(&self, query: &Query) -> Answer {
        if query.parameters.is_empty() {
            return text(StatusCode::BAD_REQUEST, RUNTIME_USAGE.to_owned());
        }
        match self.sources.modify_runtime(&query.parameters) {
            Ok(()) => ok("OK\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason.to_owned()),
        }
    }

    /// Envoy's `ServerInfo.State`.
    fn state(&self) -> &'static str {
        if self.drain.is_draining() || self.failed.load(Ordering::Relaxed) {
            "DRAINING"
        } else if self.readiness.is_ready() {
            "LIVE"
        } else {
            "INITIALIZING"
        }
    }

    fn ready(&self) -> Answer {
        let state = self.state();
        let status = if state == "LIVE" {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        text(status, format!("{state}\n"))
    }

    fn server_info(&self) -> Value {
        let uptime = self.started.elapsed().unwrap_or_default().as_secs();
        let mut node = malla_xds_proto::json::print(&self.introduction);
        if let Some(fields) = node.as_object_mut() {
            fields.insert("user_agent_name".into(), "malla".into());
        }
        json!({
            "version": format!("{}/{}/Clean/RELEASE/rustls", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            "state": self.state(),
            "uptime_current_epoch": format!("{uptime}s"),
            "uptime_all_epochs": format!("{uptime}s"),
            "hot_restart_version": "disabled",
            "command_line_options": { "concurrency": self.concurrency },
            "node": node,
        })
    }

    fn set_failed(&self, failed: bool) -> Answer {
        self.failed.store(failed, Ordering::Relaxed);
        ok("OK\n".to_owned())
    }

    /// Without `graceful` accepting stops at once; with it connections are asked to end first, and accepting goes on so
    /// that clients which have not heard yet are served. With `skip_exit` it goes on for good.
    fn drain_listeners(&self, query: &Query) -> Answer {
        let inbound_only = query.has("inboundonly");
        let goes_on = query.has("graceful") || query.has("skip_exit");
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        manager.drain_all(inbound_only, goes_on);
        ok("OK\n".to_owned())
    }

    fn logging(&self, query: &Query) -> Answer {
        let Some(log) = &self.log else {
            return text(
                StatusCode::BAD_REQUEST,
                "logging is configured by the surrounding process\n".to_owned(),
            );
        };
        let result = match query.first() {
            None => Ok(()),
            Some(("level", level)) => log.set_filter(level),
            Some(("paths", paths)) => log.set_filter(&paths.replace(':', "=")),
            // Envoy's `?NAME=LEVEL`: one logger.
            Some((name, level)) => log.set_filter(&format!("{},{name}={level}", log.filter())),
        };
        match result {
            Ok(()) => ok(format!(
                "active loggers:\n  {}\n",
                log.filter().replace(',', "\n  ").replace('=', ": ")
            )),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

fn help() -> String {
    let lines = COMMANDS
        .iter()
        .map(|(path, help)| format!("  {path}: {help}\n"));
    std::iter::once("admin commands are:\n".to_owned())
        .chain(lines)
        .collect()
}

fn ok(body: String) -> Answer {
    text(StatusCode::OK, body)
}

fn text(status: StatusCode, body: String) -> Answer {
    Answer {
        status,
        content_type: TEXT,
        body,
    }
}

fn json(value: &Value) -> Answer {
    let body = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    Answer {
        status: StatusCode::OK,
        content_type: JSON,
        body,
    }
}

/// RFC 3339 with milliseconds, as protobuf's JSON has timestamps.
fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(
            &"/stats?filter=a%2Eb+c&usedonly&format=json"
                .parse()
                .unwrap(),
        );
        assert_eq!(query.get("filter"), Some("a.b c"));
        assert_eq!(
            (query.has("usedonly"), query.get("format"), query.get("x")),
            (true, Some("json"), None)
        );
    }
}
