//! How often configuration came, and what became of it, under Envoy's names.
use std::collections::BTreeMap;

use malla_xds::client::Rejection;
use malla_xds_proto::type_url;

/// Counters of updates, by full name, and the versions that came last.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<String, u64>, BTreeMap<String, String>);

impl Counts {
    /// One response, or one reading of a file.
    pub(super) fn update<'a>(
        &mut self,
        type_url: &str,
        names: impl Iterator<Item = &'a str>,
        rejected: &[Rejection],
    ) {
        match type_url {
            type_url::CLUSTER => self.count("cluster_manager.cds", rejected.is_empty()),
            type_url::LISTENER => self.count("listener_manager.lds", rejected.is_empty()),
            type_url::SECRET => {
                for name in names {
                    let good = rejected.iter().all(|rejection| &*rejection.name != name);
                    self.count(&format!("sds.{name}"), good);
                }
            }
            type_url::EXTENSION_CONFIG => {
                for name in names {
                    let good = rejected.iter().all(|rejection| &*rejection.name != name);
                    let prefix = format!("extension_config_discovery.http_filter.{name}");
                    self.count(&prefix, good);
                    let outcome = if good { "config_reload" } else { "config_fail" };
                    self.add(&format!("{prefix}.{outcome}"));
                }
            }
            // Those of endpoints and routes sit among the counters of whoever uses them.
            _ => {}
        }
    }

    /// A file that is no configuration at all.
    pub(super) fn failure(&mut self, type_url: &str) {
        let prefix = match type_url {
            type_url::CLUSTER => "cluster_manager.cds",
            type_url::LISTENER => "listener_manager.lds",
            _ => return,
        };
        self.add(&format!("{prefix}.update_attempt"));
        self.add(&format!("{prefix}.update_failure"));
    }

    /// The version of the last answer that brought all resources of a type.
    pub(super) fn version(&mut self, type_url: &str, version: &str) {
        let name = match type_url {
            type_url::CLUSTER => "cluster_manager.cds.version_text",
            type_url::LISTENER => "listener_manager.lds.version_text",
            _ => return,
        };
        self.1.insert(name.to_owned(), version.to_owned());
    }

    /// `version_text` of what has come.
    pub(super) fn texts(&self) -> &BTreeMap<String, String> {
        &self.1
    }

    fn count(&mut self, prefix: &str, good: bool) {
        self.add(&format!("{prefix}.update_attempt"));
        self.add(&format!(
            "{prefix}.{}",
            if good {
                "update_success"
            } else {
                "update_rejected"
            }
        ));
    }

    fn add(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &u64)> {
        self.0.iter()
    }
}
