//! Which tokens are believed (Istio: RequestAuthentication).

use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::id::{Labels, Meta};

/// Claims whose text is a list of words, whatever a rule says (Istio has always read them so).
pub const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];
/// How long fetching keys may take where a rule says nothing (Istio: `jwtRules[].timeout`).
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// One RequestAuthentication object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAuthentication {
    pub meta: Meta,
    /// `None` is the whole namespace (or mesh, in the root namespace).
    pub selector: Option<Labels>,
    pub rules: Vec<JwtRule>,
}

/// One issuer, and how its tokens are found and checked (`jwtRules[]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRule {
    /// The token's `iss`.
    pub issuer: Arc<str>,
    /// Any of these as `aud`; none takes all.
    pub audiences: Vec<Arc<str>>,
    pub keys: KeySource,
    /// Where tokens are; nowhere at all is `Authorization: Bearer` and the parameter `access_token`.
    pub locations: TokenLocations,
    /// Header that carries the checked payload on, base64url.
    pub payload_header: Option<Arc<str>>,
    /// Keep the token on the forwarded request.
    pub forward: bool,
    /// Header and claim; `a.b` is nested.
    pub claim_headers: Vec<(Arc<str>, Arc<str>)>,
    /// Besides [`SPACE_DELIMITED`].
    pub space_delimited: Vec<Arc<str>>,
}

/// Where tokens are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenLocations {
    /// A header, and the text before the token in it.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    pub params: Vec<Arc<str>>,
    pub cookies: Vec<Arc<str>>,
}

impl TokenLocations {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.params.is_empty() && self.cookies.is_empty()
    }
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A key set (RFC 7517) as text.
    Inline(Arc<str>),
    Remote {
        uri: JwksUri,
        timeout: Duration,
    },
    /// Nowhere that can be read: every token of the issuer is refused.
    Unknown,
}

/// The address of a key set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwksUri {
    /// As it was written.
    pub text: Arc<str>,
    /// `https`.
    pub tls: bool,
    pub host: Host,
    pub port: u16,
}

impl JwksUri {
    /// Reads `http://HOST[:PORT][/PATH]` or `https://…`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err("does not begin with http:// or https://"),
        };
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("holds a space or a control character");
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("names a user, which is not supported");
        }
        let (host, port) = match authority.rsplit_once(':') {
            // Not the last part of an IPv6 address.
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().ok().filter(|port: &u16| *port != 0);
                (
                    host,
                    port.ok_or("has no port from 1 to 65535 behind the colon")?,
                )
            }
            _ => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains('*') {
            return Err("names no host");
        }
        Ok(Self {
            text: text.into(),
            tls,
            host: Host::new(host),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::JwksUri;

    #[test]
    fn the_address_of_keys_is_taken_apart() {
        let check = |text: &str, want: Option<(bool, &str, u16)>| {
            let parsed = JwksUri::parse(text);
            let seen = parsed.as_ref().ok();
            let seen = seen.map(|uri| (uri.tls, uri.host.as_str(), uri.port));
            assert_eq!(seen, want, "{text}: {parsed:?}");
        };
        check(
            "https://Idp.example.com/keys",
            Some((true, "idp.example.com", 443)),
        );
        check("http://keys.auth:8080", Some((false, "keys.auth", 8080)));
        check(
            "http://[2001:db8::1]:81/x?y=a:b",
            Some((false, "2001:db8::1", 81)),
        );
        check("https://[2001:db8::1]", Some((true, "2001:db8::1", 443)));
        for bad in [
            "",
            "keys.auth/x",
            "ftp://keys/x",
            "http:///x",
            "http://*.x/y",
            "http://h:0/",
            "http://h:70000/",
            "http://user@h/",
            "http://a b/",
        ] {
            check(bad, None);
        }
    }
}
