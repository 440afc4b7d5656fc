//! What all Telemetry objects come to for one workload.
//!
//! Three levels: the mesh (the root namespace's object without selector), the namespace (its own), the workload (the
//! oldest that selects it). At each the oldest wins; a nearer level's providers take the place of the ones before, and
//! everything else it says is laid over them (Istio: `Telemetries.applicableTelemetries`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    LoggingRule, MetricsRule, Share, Side, Tags, Telemetry, TelemetrySettings, TracingRule,
};
use crate::id::{Labels, selects};
use crate::mesh::Mesh;

/// The objects that are in force for a workload, from the mesh to the workload itself.
#[derive(Debug)]
pub struct Levels<'a> {
    settings: &'a TelemetrySettings,
    objects: Vec<&'a Telemetry>,
}

/// How requests of one side are traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing<'a> {
    /// `None` where nobody named one.
    pub provider: Option<&'a str>,
    /// Spans are not reported; contexts still pass.
    pub disabled: bool,
    /// `None` is as `defaultConfig.tracing` says.
    pub sampling: Option<Share>,
    pub tags: Option<&'a Tags>,
    pub sample_by_request_id: bool,
    pub istio_tags: bool,
    pub propagate: bool,
}

/// What one provider is told of requests of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log<'a> {
    pub disabled: bool,
    pub filter: Option<&'a str>,
}

impl<'a> Levels<'a> {
    /// Of a workload with `labels` in `namespace`.
    #[must_use]
    pub fn of(mesh: &'a Mesh, namespace: &str, labels: &Labels) -> Self {
        let root = &*mesh.settings.root_namespace;
        // The mesh keeps them oldest first.
        let in_namespace = |name: &'a str| {
            let all = mesh.telemetries.iter();
            all.filter(move |telemetry| telemetry.meta.namespace() == name)
        };
        let whole = |telemetry: &&&'a Arc<Telemetry>| telemetry.selector.is_none();
        let own = mesh
            .telemetries
            .iter()
            .filter(|telemetry| telemetry.meta.namespace() == namespace);
        let mut objects: Vec<&'a Telemetry> = Vec::new();
        objects.extend(in_namespace(root).find(|it| whole(&it)).map(|it| &**it));
        if namespace != root {
            objects.extend(own.clone().find(|it| whole(&it)).map(|it| &**it));
        }
        let selected = own.clone().find(|it| {
            it.selector
                .as_ref()
                .is_some_and(|selector| selects(selector, labels))
        });
        objects.extend(selected.map(|it| &**it));
        Self {
            settings: &mesh.settings.telemetry,
            objects,
        }
    }

    fn tracing_rules(&self) -> impl Iterator<Item = &'a TracingRule> {
        self.objects.iter().flat_map(|telemetry| &telemetry.tracing)
    }

    /// Rules for metrics, from the mesh's to the workload's.
    pub fn metrics(&self) -> impl Iterator<Item = &'a MetricsRule> {
        self.objects.iter().flat_map(|telemetry| &telemetry.metrics)
    }

    /// `None` where nobody says anything of traces: then `defaultConfig.tracing` counts.
    #[must_use]
    pub fn tracing(&self, side: Side) -> Option<Tracing<'a>> {
        let default = self.settings.default_tracing.first();
        if default.is_none() && self.tracing_rules().next().is_none() {
            return None;
        }
        let mut out = Tracing {
            provider: default.map(|name| &**name),
            disabled: false,
            sampling: None,
            tags: None,
            sample_by_request_id: true,
            istio_tags: true,
            propagate: true,
        };
        for rule in self.tracing_rules().filter(|rule| rule.mode.covers(side)) {
            if let Some(first) = rule.providers.first() {
                out.provider = Some(first);
            }
            out.disabled = rule.disabled.unwrap_or(out.disabled);
            out.sampling = rule.sampling.or(out.sampling);
            out.tags = rule.tags.as_ref().or(out.tags);
            out.sample_by_request_id = rule
                .sample_by_request_id
                .unwrap_or(out.sample_by_request_id);
            out.istio_tags = rule.istio_tags.unwrap_or(out.istio_tags);
            out.propagate = rule.no_propagation.map_or(out.propagate, |not| !not);
        }
        Some(out)
    }

    /// Each provider and what it is told, by name. `None` where nobody says anything of logs: then the mesh's
    /// `accessLogFile` counts.
    #[must_use]
    pub fn logging(&self, side: Side) -> Option<BTreeMap<&'a str, Log<'a>>> {
        let defaults = || self.settings.default_logging.iter().map(|name| &**name);
        let levels: Vec<&'a [LoggingRule]> = self
            .objects
            .iter()
            .map(|telemetry| telemetry.logging.as_slice())
            .filter(|rules| !rules.is_empty())
            .collect();
        if levels.is_empty() {
            let logs: BTreeMap<_, _> = defaults().map(|name| (name, Log::default())).collect();
            return (!logs.is_empty()).then_some(logs);
        }
        // The nearest level that names providers decides which there are.
        let mut in_scope: Vec<&'a str> = defaults().collect();
        for rules in &levels {
            let covering = rules.iter().filter(|rule| rule.mode.covers(side));
            let named: Vec<&'a str> = covering
                .flat_map(|rule| rule.providers.iter().map(|name| &**name))
                .collect();
            if !named.is_empty() {
                in_scope = named;
            }
        }
        let mut logs = BTreeMap::new();
        let mut parents: Vec<&'a str> = defaults().collect();
        for rule in levels.into_iter().flatten() {
            if !rule.providers.is_empty() {
                parents = rule.providers.iter().map(|name| &**name).collect();
            }
            if !rule.mode.covers(side) {
                continue;
            }
            for name in parents.iter().filter(|name| in_scope.contains(name)) {
                let log = match rule.disabled {
                    Some(true) => Log {
                        disabled: true,
                        filter: None,
                    },
                    _ => Log {
                        disabled: false,
                        filter: rule.filter.as_deref(),
                    },
                };
                logs.insert(*name, log);
            }
        }
        Some(logs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{Levels, Log};
    use crate::id::{Labels, Meta, ObjectRef};
    use crate::mesh::{Mesh, MeshParts};
    use crate::telemetry::{LoggingRule, Mode, Share, Side, Telemetry, TracingRule};

    fn object(name: &str, namespace: &str, created: i64, selector: Option<&str>) -> Telemetry {
        let labels = |app: &str| Labels::from([("app".to_owned(), app.to_owned())]);
        Telemetry {
            meta: Meta {
                object: ObjectRef::new("Telemetry", namespace, name),
                created,
                generation: 1,
                labels: Labels::new(),
                annotations: BTreeMap::new(),
            },
            selector: selector.map(labels),
            tracing: Vec::new(),
            logging: Vec::new(),
            metrics: Vec::new(),
        }
    }

    fn mesh(telemetries: Vec<Telemetry>, logging: &[&str], tracing: &[&str]) -> Mesh {
        let names = |list: &[&str]| list.iter().map(|name| Arc::from(*name)).collect();
        let mut parts = MeshParts {
            telemetries: telemetries.into_iter().map(Arc::new).collect(),
            ..MeshParts::default()
        };
        parts.settings.telemetry.default_logging = names(logging);
        parts.settings.telemetry.default_tracing = names(tracing);
        Mesh::new(parts)
    }

    fn log(
        providers: &[&str],
        disabled: Option<bool>,
        filter: Option<&str>,
        mode: Mode,
    ) -> LoggingRule {
        LoggingRule {
            mode,
            providers: providers.iter().map(|name| Arc::from(*name)).collect(),
            disabled,
            filter: filter.map(Arc::from),
        }
    }

    #[track_caller]
    fn check(mesh: &Mesh, side: Side, want: Option<&[(&str, bool, Option<&str>)]>) {
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let levels = Levels::of(mesh, "shop", &labels);
        let have = levels.logging(side);
        let want = want.map(|list| {
            let logs = list.iter().map(|(name, disabled, filter)| {
                (
                    *name,
                    Log {
                        disabled: *disabled,
                        filter: *filter,
                    },
                )
            });
            logs.collect()
        });
        assert_eq!(have, want);
    }

    #[test]
    fn nearer_levels_replace_providers_and_override_the_rest() {
        let with = |mut telemetry: Telemetry, rule: LoggingRule| {
            telemetry.logging.push(rule);
            telemetry
        };
        let root = || object("root", "istio-system", 1, None);
        let space = || object("space", "shop", 2, None);
        let own = || object("own", "shop", 3, Some("web"));
        check(&mesh(vec![], &[], &[]), Side::Client, None);
        check(
            &mesh(vec![], &["a"], &[]),
            Side::Client,
            Some(&[("a", false, None)]),
        );
        // Off for a namespace.
        let off = with(space(), log(&[], Some(true), None, Mode::Both));
        check(
            &mesh(vec![off], &["a"], &[]),
            Side::Server,
            Some(&[("a", true, None)]),
        );
        // A nearer provider takes the place of the mesh's.
        let all = vec![
            with(root(), log(&["a"], None, None, Mode::Both)),
            with(
                own(),
                log(&["b"], None, Some("response.code >= 500"), Mode::Both),
            ),
        ];
        check(
            &mesh(all, &[], &[]),
            Side::Client,
            Some(&[("b", false, Some("response.code >= 500"))]),
        );
        // One side only.
        let server = with(own(), log(&[], Some(true), None, Mode::Server));
        let all = mesh(
            vec![with(root(), log(&["a"], None, None, Mode::Both)), server],
            &[],
            &[],
        );
        check(&all, Side::Server, Some(&[("a", true, None)]));
        check(&all, Side::Client, Some(&[("a", false, None)]));
        // Others' selectors and namespaces, and younger ones, do not count.
        let all = vec![
            with(
                object("other", "shop", 1, Some("db")),
                log(&["x"], None, None, Mode::Both),
            ),
            with(
                object("else", "bank", 1, None),
                log(&["x"], None, None, Mode::Both),
            ),
            with(
                object("younger", "shop", 9, None),
                log(&["x"], None, None, Mode::Both),
            ),
            with(space(), log(&["a"], None, None, Mode::Both)),
        ];
        check(
            &mesh(all, &[], &[]),
            Side::Client,
            Some(&[("a", false, None)]),
        );
    }

    #[test]
    fn tracing_is_laid_over_level_by_level() {
        let mut root = object("root", "istio-system", 1, None);
        root.tracing.push(TracingRule {
            sampling: Some(Share::ALL),
            ..TracingRule::default()
        });
        let mut own = object("own", "shop", 2, Some("web"));
        own.tracing.push(TracingRule {
            mode: Mode::Server,
            providers: vec!["zipkin".into()],
            disabled: Some(true),
            ..TracingRule::default()
        });
        let mesh = mesh(vec![root, own], &[], &["otel"]);
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let levels = Levels::of(&mesh, "shop", &labels);
        let client = levels.tracing(Side::Client).unwrap();
        assert_eq!((client.provider, client.disabled), (Some("otel"), false));
        let server = levels.tracing(Side::Server).unwrap();
        assert_eq!((server.provider, server.disabled), (Some("zipkin"), true));
        assert_eq!(server.sampling, Some(Share::ALL));
        let empty = Mesh::default();
        let nobody = Levels::of(&empty, "shop", &labels);
        assert_eq!(nobody.tracing(Side::Client), None);
    }
}
