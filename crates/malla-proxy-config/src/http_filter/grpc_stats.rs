//! `envoy.filters.http.grpc_stats`: counts gRPC calls and their messages, by cluster or by method.

use crate::checked::{Cx, Invalid, ignorable};
use crate::pb::core::grpc_method_list::Service;
use crate::pb::extensions::filters::http::grpc_stats::v3 as pb;
use crate::pb::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;

/// `FilterConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcStats {
    /// Which calls are counted by their own name.
    pub methods: Methods,
    /// How long upstreams take is kept, too.
    pub times: bool,
    /// Dots in names of services become underscores.
    pub replace_dots: bool,
}

/// Which calls are counted by their own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    /// None: those of a cluster are counted together.
    Together,
    /// Whatever is called.
    All,
    /// These, by service; others together.
    Listed(Vec<(String, Vec<String>)>),
}

impl GrpcStats {
    pub(super) fn parse(wire: pb::FilterConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::FilterConfig {
            emit_filter_state,
            enable_upstream_stats,
            replace_dots_in_grpc_service_name,
            per_method_stat_specifier,
        } = wire;
        ignorable!(cx; emit_filter_state);
        let listed = |service: Service| (service.name, service.method_names);
        Ok(Self {
            methods: match per_method_stat_specifier {
                None => Methods::Together,
                Some(PerMethodStatSpecifier::StatsForAllMethods(all)) => match all.value {
                    true => Methods::All,
                    false => Methods::Together,
                },
                Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
                    Methods::Listed(list.services.into_iter().map(listed).collect())
                }
            },
            times: enable_upstream_stats,
            replace_dots: replace_dots_in_grpc_service_name,
        })
    }

    /// The service and method of a path, if calls of it are counted by their own name.
    pub fn named<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        let path = path.split('?').next().unwrap_or_default();
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let (service, method) = (parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let listed = match &self.methods {
            Methods::Together => false,
            Methods::All => true,
            Methods::Listed(services) => services.iter().any(|(name, methods)| {
                name == service && methods.iter().any(|known| known == method)
            }),
        };
        listed.then_some((service, method))
    }
}

#[cfg(test)]
mod tests {
    use super::{GrpcStats, Methods};

    #[test]
    fn calls_have_names_where_they_are_asked_for() {
        let check = |methods: Methods, path: &str, want: Option<(&str, &str)>| {
            let config = GrpcStats {
                methods,
                times: false,
                replace_dots: false,
            };
            assert_eq!(config.named(path), want, "{path}");
        };
        let listed = || Methods::Listed(vec![("a.B".into(), vec!["C".into()])]);
        check(Methods::Together, "/a.B/C", None);
        check(Methods::All, "/a.B/C?d", Some(("a.B", "C")));
        check(Methods::All, "/a.B", None);
        check(Methods::All, "/a.B/C/D", None);
        check(listed(), "/a.B/C", Some(("a.B", "C")));
        check(listed(), "/a.B/D", None);
    }
}
