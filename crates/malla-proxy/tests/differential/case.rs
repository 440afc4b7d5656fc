//! The shape of a case's file; `tests/differential/README.md` explains it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::{Map, Value};

/// One file: a configuration, and what is tried on it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    /// Why these cases are here; for readers.
    #[serde(default, rename = "about")]
    _about: String,
    #[serde(default = "default_base")]
    pub(crate) base: String,
    /// What every listener adds to the base.
    #[serde(default)]
    pub(crate) all: Fragment,
    /// By name; without any there is `main`.
    #[serde(default)]
    pub(crate) listeners: BTreeMap<String, Fragment>,
    /// Further clusters, or changes to those of the base.
    #[serde(default)]
    pub(crate) clusters: BTreeMap<String, Map<String, Value>>,
    /// Merged into the bootstrap.
    #[serde(default)]
    pub(crate) bootstrap: Option<Value>,
    /// Statistics that are not zero before the first case begins, as expressions.
    #[serde(default)]
    pub(crate) ready: Vec<String>,
    /// Who must refuse to start on it.
    #[serde(default)]
    pub(crate) refused: Option<Refused>,
    /// What its cases compare.
    #[serde(default = "everything")]
    pub(crate) compare: Vec<Part>,
    #[serde(default)]
    pub(crate) cases: Vec<Case>,
}

fn default_base() -> String {
    "http".into()
}

/// What a listener adds to the base's.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fragment {
    /// Merged into the last network filter of each chain.
    #[serde(alias = "tcp")]
    pub(crate) hcm: Option<Value>,
    /// Before the base's route, which takes everything to `backend`.
    pub(crate) routes: Vec<Value>,
    /// Merged into the virtual host.
    pub(crate) vhost: Option<Value>,
    /// HTTP filters before the router.
    pub(crate) filters: Vec<Value>,
    /// Network filters before the last.
    pub(crate) network_filters: Vec<Value>,
    /// Merged into the listener.
    pub(crate) listener: Option<Value>,
    /// Merged into its filter chain.
    pub(crate) chain: Option<Value>,
}

/// A configuration that is not to be taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    pub(crate) by: By,
    /// What Malla's words must contain.
    pub(crate) says: String,
    /// The row of `docs/differences.md`, where only one refuses.
    #[serde(default)]
    pub(crate) row: Option<String>,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    Both,
    Malla,
}

/// One exchange.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default, rename = "about")]
    _about: String,
    /// The listener.
    #[serde(default = "default_listener")]
    pub(crate) on: String,
    /// Steps of an HTTP/1 or raw client.
    #[serde(default)]
    pub(crate) send: Vec<Step>,
    /// Steps of an HTTP/2 client.
    #[serde(default)]
    pub(crate) h2: Vec<Step>,
    #[serde(default)]
    pub(crate) tls: Option<Tls>,
    /// What upstream `backend` does, request by request; without it, what the path says.
    #[serde(default)]
    pub(crate) upstream: Vec<Action>,
    /// The same for others, by name.
    #[serde(default)]
    pub(crate) upstreams: BTreeMap<String, Vec<Action>>,
    /// What must be the same; without it, what the file says.
    #[serde(default)]
    pub(crate) compare: Vec<Part>,
    /// Headers of answers and of what upstreams see that are not compared.
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    /// Expressions whose matches are replaced with `<masked>` before anything is compared.
    #[serde(default)]
    pub(crate) mask: Vec<String>,
    /// Expressions of names whose change by this case is compared.
    #[serde(default)]
    pub(crate) stats: Vec<String>,
    /// Log lines this leaves; without it, one for each answer.
    #[serde(default)]
    pub(crate) lines: Option<usize>,
    /// How long an answer may take.
    #[serde(default = "patience", deserialize_with = "duration")]
    pub(crate) patience: Duration,
    #[serde(default)]
    pub(crate) differs: Option<Differs>,
}

fn default_listener() -> String {
    "main".into()
}

fn patience() -> Duration {
    Duration::from_secs(5)
}

fn everything() -> Vec<Part> {
    use Part::{Body, End, Headers, Log, Status, Upstream};
    vec![Status, Headers, Body, End, Upstream, Log]
}

/// A deliberate difference: these lines, and no others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Differs {
    /// The first cell of the row of `docs/differences.md` that explains it.
    pub(crate) row: String,
    /// Lines that only Envoy's side has.
    #[serde(default)]
    pub(crate) envoy: Vec<String>,
    /// Lines that only Malla's side has.
    #[serde(default)]
    pub(crate) malla: Vec<String>,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    Status,
    Headers,
    Body,
    End,
    Upstream,
    /// The upstream's requests as they were written: order, case and spaces.
    Bytes,
    Log,
}

/// TLS of the client's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Vec<String>,
    /// The name of a certificate to show.
    pub(crate) client: Option<String>,
}

/// A step of a client: raw bytes, or one of what [`Act`] has.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Step {
    /// Bytes, or the name of an act without arguments.
    Bytes(String),
    Act(Box<Act>),
}

/// Exactly one of the verbs, with what belongs to it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Act {
    /// `METHOD path`.
    pub(crate) request: Option<String>,
    /// A path to GET.
    pub(crate) get: Option<String>,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Option<String>,
    /// A body in HTTP/1 chunks or HTTP/2 frames.
    pub(crate) chunks: Option<Vec<String>>,
    pub(crate) trailers: Vec<String>,
    pub(crate) authority: Option<String>,
    /// HTTP/2: do not end the stream.
    pub(crate) open: bool,
    /// Bytes, `repeat` times; `{n}` counts.
    pub(crate) raw: Option<String>,
    pub(crate) repeat: Option<u32>,
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) pause: Option<Duration>,
    /// Wait until so many requests are at upstreams.
    pub(crate) seen: Option<usize>,
    /// Wait until these counters have these values.
    pub(crate) until: BTreeMap<String, i64>,
    /// HTTP/2: fields as they are, `name: value`, also pseudo ones.
    pub(crate) fields: Option<Vec<String>>,
    pub(crate) data: Option<String>,
    pub(crate) frame: Option<FrameSpec>,
    pub(crate) reset: Option<u32>,
    pub(crate) settings: Option<BTreeMap<u16, u32>>,
    pub(crate) stream: Option<u32>,
    pub(crate) end: Option<bool>,
    /// gRPC: a message of this type in JSON, framed.
    pub(crate) grpc: Option<Value>,
}

/// An HTTP/2 frame.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FrameSpec {
    #[serde(rename = "type")]
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: String,
    /// Fields to be packed behind the payload.
    pub(crate) fields: Vec<String>,
}

/// What an upstream does with one request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Action {
    pub(crate) status: Option<u16>,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Option<String>,
    pub(crate) chunks: Option<Vec<String>>,
    pub(crate) trailers: Vec<String>,
    /// The whole answer as bytes.
    pub(crate) raw: Option<String>,
    /// A gRPC answer: a message with `@type`.
    pub(crate) grpc: Option<Value>,
    /// Before the request's body is read.
    pub(crate) early: bool,
    /// Wait before the answer.
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) after: Option<Duration>,
    /// Wait between the answer's head (or raw bytes) and the rest.
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) between: Option<Duration>,
    /// The second half of raw bytes.
    pub(crate) then: Option<String>,
    /// HTTP/2: reset the stream with this code instead, or after the body.
    pub(crate) reset: Option<u32>,
    pub(crate) end: Option<Ending>,
    /// What is sent afterwards comes back in capitals.
    pub(crate) tunnel: bool,
}

/// How an upstream's connection ends after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    Close,
    Reset,
}

/// Bytes of a string: every character below U+0100 is one.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let byte = |c: char| u8::try_from(u32::from(c)).expect("characters beyond U+00FF are no bytes");
    text.chars().map(byte).collect()
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    let wrong = || D::Error::custom(format!("`{text}` is no duration: write 100ms or 2s"));
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1.0),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs_f64(number * unit))
}

fn optional_duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    duration(input).map(Some)
}
