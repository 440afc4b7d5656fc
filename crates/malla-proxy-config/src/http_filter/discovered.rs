//! HTTP filters whose configuration comes on its own (ECDS, `config_discovery`).
//!
//! Invariant: an [`Extension`] is of a type that everybody who names it takes; whoever has none yet uses its default, and
//! answers 500 where there is no default either, as Envoy does.

use std::sync::Arc;

use super::HttpFilterKind;
use crate::checked::{Checked, Cx, Invalid, type_name};
use crate::config_source::{ConfigSource, Reference};
use crate::pb::core;
use crate::runtime::Values;

/// A seat in a chain for a filter that comes by name.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// The filter's name, and where its configuration comes from.
    pub reference: Reference,
    /// Full names of the messages it may be.
    pub types: Vec<String>,
    /// Used while nothing has come.
    pub default: Option<Arc<HttpFilterKind>>,
}

/// `envoy.config.core.v3.TypedExtensionConfig` of an HTTP filter.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Filters refer to it by this.
    pub name: Arc<str>,
    /// Full name of its message.
    pub message: String,
    /// What it does.
    pub kind: HttpFilterKind,
}

impl Discovered {
    pub(super) fn parse(
        name: &str,
        wire: core::ExtensionConfigSource,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let core::ExtensionConfigSource {
            config_source,
            default_config,
            apply_default_config_without_warming,
            type_urls,
        } = wire;
        if type_urls.is_empty() {
            return Err(cx.invalid("type_urls", "at least one is required"));
        }
        let types: Vec<String> = cx.each("type_urls", type_urls, |url: String, cx: &mut Cx| {
            let message = url.rsplit('/').next().unwrap_or_default();
            if is_known(message) {
                return Ok(message.to_owned());
            }
            Err(cx.invalid("", no_extension(message)))
        })?;
        let default = match default_config {
            None if apply_default_config_without_warming => {
                return Err(cx.invalid(
                    "apply_default_config_without_warming",
                    "needs a default_config",
                ));
            }
            None => None,
            Some(any) => cx.field("default_config", |cx| {
                let message = type_name(&any);
                if !types.contains(&message) {
                    return Err(cx.invalid("", unexpected(&message, &types)));
                }
                Ok(Some(Arc::new(HttpFilterKind::parse(&any, cx)?)))
            })?,
        };
        let wire = cx.required("config_source", config_source)?;
        let mut source = cx.field("config_source", |cx| ConfigSource::parse(wire, cx))?;
        if apply_default_config_without_warming {
            source.first_fetch = Some(std::time::Duration::ZERO);
        }
        Ok(Self {
            reference: Reference {
                name: name.into(),
                source,
            },
            types,
            default,
        })
    }

    /// Why an extension of this message is not the filter that is asked for here, if so.
    pub fn refuses(&self, message: &str) -> Option<String> {
        let fits = self.types.iter().any(|one| one == message);
        (!fits).then(|| unexpected(message, &self.types))
    }
}

impl Extension {
    /// Parses one resource.
    ///
    /// # Errors
    /// When it is no filter that this proxy has, or a field of it is not honoured.
    pub fn from_proto_with(
        wire: core::TypedExtensionConfig,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
    }

    fn parse(wire: core::TypedExtensionConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let core::TypedExtensionConfig { name, typed_config } = wire;
        let any = cx.required("typed_config", typed_config)?;
        cx.field("typed_config", |cx| {
            let message = type_name(&any);
            if !is_known(&message) {
                return Err(cx.invalid("", no_extension(&message)));
            }
            Ok(Self {
                name: name.into(),
                kind: HttpFilterKind::parse(&any, cx)?,
                message,
            })
        })
    }
}

/// Filters that may come by name: those that act on requests, but the router, which must be there.
fn is_known(message: &str) -> bool {
    let here = message.strip_prefix("envoy.extensions.filters.http.");
    let here = here.is_some_and(|filter| filter != "router.v3.Router");
    here || message == "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
}

fn no_extension(message: &str) -> String {
    format!("{message} is not supported as an extension that comes by name; use typed_config")
}

fn unexpected(message: &str, types: &[String]) -> String {
    let types = types.join(", ");
    format!("filter config has type URL {message} but expect {types}")
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::json;

    use super::{Discovered, Extension};
    use crate::checked::Cx;
    use crate::http_filter::HttpFilterKind;
    use crate::pb::core;

    const BUFFER: &str = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";

    fn seat(yaml: &str) -> Result<Discovered, String> {
        let yaml = yaml.replace("$buffer", BUFFER);
        let wire: core::ExtensionConfigSource = json::from_yaml(&yaml).unwrap();
        Cx::check(|cx| Discovered::parse("it", wire, cx))
            .map(|checked| checked.value)
            .map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_seat_says_what_may_sit_there() {
        let one = seat(
            "{ config_source: { ads: {} }, type_urls: [ $buffer ], apply_default_config_without_warming: true, \
               default_config: { \"@type\": $buffer, max_request_bytes: 3 } }",
        )
        .unwrap();
        let default = one.default.as_deref();
        assert!(matches!(default, Some(HttpFilterKind::Buffer(3))));
        assert!(one.reference.source.first_fetch.unwrap().is_zero());
        assert_eq!(
            one.refuses("envoy.extensions.filters.http.buffer.v3.Buffer"),
            None
        );
        let other = one.refuses("envoy.extensions.filters.http.cors.v3.Cors");
        assert!(other.unwrap().contains("but expect"));
        let check = |yaml: &str, want: &str| {
            let got = seat(yaml).unwrap_err();
            assert!(got.contains(want), "{yaml}\n{got}");
        };
        check("config_source: { ads: {} }", "type_urls: at least one");
        check(
            "{ config_source: { ads: {} }, type_urls: [ $buffer ], apply_default_config_without_warming: true }",
            "needs a default_config",
        );
        check("type_urls: [ $buffer ]", "config_source: is required");
        check(
            "{ config_source: { ads: {} }, type_urls: [ type.googleapis.com/envoy.extensions.filters.http.router.v3.Router ] }",
            "type_urls[0]: envoy.extensions.filters.http.router.v3.Router is not supported",
        );
        check(
            "{ config_source: { ads: {} }, type_urls: [ $buffer ], default_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors } }",
            "default_config: filter config has type URL",
        );
    }

    #[test]
    fn an_extension_is_a_filter_of_this_proxy() {
        let parse = |yaml: &str| {
            let wire: core::TypedExtensionConfig = json::from_yaml(yaml).unwrap();
            Cx::check(|cx| Extension::parse(wire, cx))
                .map(|checked| checked.value)
                .map_err(|invalid| invalid.to_string())
        };
        let good = parse(&format!(
            "{{ name: it, typed_config: {{ \"@type\": {BUFFER}, max_request_bytes: 3 }} }}"
        ));
        assert_eq!(&*good.unwrap().name, "it");
        let bad = parse(&format!(
            "{{ name: it, typed_config: {{ \"@type\": {BUFFER} }} }}"
        ));
        assert!(bad.unwrap_err().contains("max_request_bytes"));
        let bad = parse("{ name: it }");
        assert!(bad.unwrap_err().contains("typed_config: is required"));
    }
}
