//! Looks at the first bytes of a connection without taking them: TLS (SNI, ALPN), HTTP/1.x, HTTP/2, PROXY protocol.
//!
//! The inspectors are pure functions over a growing prefix of the stream: they say what they saw, or that more is needed.
//! Invariants: no input panics; an inspector asks for more only while the prefix can still become what it looks for, and
//! never beyond [`MAX_PEEK`].
mod hello;
mod http;
mod peek;
mod proxy_protocol;

pub use self::hello::{ClientHello, inspect_tls};
pub use self::http::{HttpKind, inspect_http};
pub use self::peek::{PeekError, peek_until};
pub use self::proxy_protocol::{ProxyHeader, inspect_proxy_protocol};

/// The longest prefix looked at, bytes; Envoy's limit for a ClientHello.
pub const MAX_PEEK: usize = 64 * 1024;

/// What an inspector makes of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Seen.
    Is(T),
    /// Certainly something else.
    IsNot,
    /// Undecided: this prefix is too short.
    More,
}
