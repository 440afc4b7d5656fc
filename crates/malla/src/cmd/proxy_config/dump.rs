//! Envoy's `ConfigDump`, in sections.

use std::collections::BTreeMap;

use serde_json::Value;

/// One section: its message, and where its resources are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    message: &'static str,
    /// Field of the list, and the path from its entries to the resource.
    dynamic: (&'static str, &'static str),
    fixed: (&'static str, &'static str),
    /// The resource's name.
    name: &'static str,
}

pub(crate) const CLUSTERS: Section = Section {
    message: "ClustersConfigDump",
    dynamic: ("dynamic_active_clusters", "/cluster"),
    fixed: ("static_clusters", "/cluster"),
    name: "name",
};
pub(crate) const LISTENERS: Section = Section {
    message: "ListenersConfigDump",
    dynamic: ("dynamic_listeners", "/active_state/listener"),
    fixed: ("static_listeners", "/listener"),
    name: "name",
};
pub(crate) const ROUTES: Section = Section {
    message: "RoutesConfigDump",
    dynamic: ("dynamic_route_configs", "/route_config"),
    fixed: ("static_route_configs", "/route_config"),
    name: "name",
};
pub(crate) const ENDPOINTS: Section = Section {
    message: "EndpointsConfigDump",
    dynamic: ("dynamic_endpoint_configs", "/endpoint_config"),
    fixed: ("static_endpoint_configs", "/endpoint_config"),
    name: "cluster_name",
};
pub(crate) const EXTENSIONS: Section = Section {
    message: "EcdsConfigDump",
    dynamic: ("ecds_filters", "/ecds_filter"),
    fixed: ("", ""),
    name: "name",
};

/// A dump as it was read.
#[derive(Debug)]
pub(crate) struct Dump(Value);

impl Dump {
    pub(crate) fn new(value: Value) -> Self {
        Self(value)
    }

    pub(crate) fn whole(&self) -> &Value {
        &self.0
    }

    fn section(&self, message: &str) -> &Value {
        let configs = self.0["configs"].as_array().into_iter().flatten();
        let mut found = configs.filter(|config| {
            let url = config["@type"].as_str().unwrap_or_default();
            url.rsplit('.').next() == Some(message)
        });
        found.next().unwrap_or(&Value::Null)
    }

    fn list(&self, section: Section, (field, path): (&str, &str)) -> impl Iterator<Item = &Value> {
        let entries = self.section(section.message)[field].as_array();
        let entries = entries.into_iter().flatten();
        entries.filter_map(move |entry| entry.pointer(path))
    }

    /// What came from a control plane, then what the proxy was started with.
    pub(crate) fn all(&self, section: Section) -> Vec<Value> {
        let dynamic = self.list(section, section.dynamic);
        let all = dynamic.chain(self.list(section, section.fixed));
        all.cloned().collect()
    }

    /// What came from a control plane, by name.
    pub(crate) fn dynamic(&self, section: Section) -> BTreeMap<String, &Value> {
        let dynamic = self.list(section, section.dynamic);
        dynamic
            .map(|one| {
                (
                    one[section.name].as_str().unwrap_or_default().to_owned(),
                    one,
                )
            })
            .collect()
    }

    pub(crate) fn bootstrap(&self) -> Option<&Value> {
        self.section("BootstrapConfigDump").get("bootstrap")
    }

    /// Entries of secrets, each with its `state`.
    pub(crate) fn secrets(&self) -> Vec<Value> {
        let section = self.section("SecretsConfigDump");
        let lists = [
            ("dynamic_active_secrets", "ACTIVE"),
            ("dynamic_warming_secrets", "WARMING"),
            ("static_secrets", "ACTIVE"),
        ];
        let entries = lists.into_iter().flat_map(|(field, state)| {
            let entries = section[field].as_array().into_iter().flatten();
            entries.map(move |entry| {
                let mut entry = entry.clone();
                entry["state"] = state.into();
                entry
            })
        });
        entries.collect()
    }
}
