//! The environment and the command line of a container.
//!
//! Order and precedence are the kubelet's: Service variables, then `envFrom`, then `env`, each
//! overriding what came before; `$(NAME)` refers to what is known at that point.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service,
};
use malla_apiserver::{ApiError, Client, kinds};
use serde_json::Value;

use super::fields::{self, Capacity, FieldError, Place};
use crate::object::{self, Key};

/// Why a container cannot have its environment (`CreateContainerConfigError`).
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    #[error("env {name}: {source}")]
    Field { name: String, source: FieldError },
    #[error("env {0}: fileKeyRef is not supported by this node")]
    FileKey(String),
    #[error("{}", .0.message())]
    Api(ApiError),
}

/// Where values come from.
pub(super) struct Sources<'a> {
    pub(super) client: &'a Client,
    pub(super) pod: &'a Pod,
    pub(super) place: &'a Place,
    pub(super) capacity: Capacity,
}

/// Names and values in order, each name once.
#[derive(Debug, Default)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    pub(super) fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    /// Replaces `$(NAME)` by its value and `$$` by `$`; unknown names stay as written
    /// (`k8s.io/kubernetes/third_party/forked/golang/expansion`).
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, after) = rest.split_at(at);
            expanded.push_str(before);
            let after = after.strip_prefix('$').unwrap_or(after);
            if let Some(more) = after.strip_prefix('$') {
                expanded.push('$');
                rest = more;
            } else if let Some((name, more)) = after
                .strip_prefix('(')
                .and_then(|inner| inner.split_once(')'))
            {
                match self.get(name) {
                    Some(value) => expanded.push_str(value),
                    None => {
                        expanded.push_str("$(");
                        expanded.push_str(name);
                        expanded.push(')');
                    }
                }
                rest = more;
            } else {
                expanded.push('$');
                rest = after;
            }
        }
        expanded.push_str(rest);
        expanded
    }
}

impl Sources<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The whole environment of `container`; starts with `base`.
    pub(super) fn environment(
        &self,
        container: &Container,
        base: &[(String, String)],
    ) -> Result<Environment, EnvError> {
        let mut environment = Environment::default();
        for (name, value) in base {
            environment.set(name, value.clone());
        }
        let links = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.enable_service_links);
        for (name, value) in self.service_variables(links.unwrap_or(true))? {
            environment.set(&name, value);
        }
        for (name, value) in self.bulk(container)? {
            environment.set(&name, value);
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.value(container, variable, &environment)? {
                environment.set(&variable.name, value);
            }
        }
        Ok(environment)
    }

    fn value(
        &self,
        container: &Container,
        variable: &EnvVar,
        known: &Environment,
    ) -> Result<Option<String>, EnvError> {
        let Some(source) = &variable.value_from else {
            let text = variable.value.as_deref().unwrap_or_default();
            return Ok(Some(known.expand(text)));
        };
        self.referred(container, &variable.name, source)
    }

    /// A value by reference; `None` when an optional one is missing.
    fn referred(
        &self,
        container: &Container,
        name: &str,
        source: &EnvVarSource,
    ) -> Result<Option<String>, EnvError> {
        let wrong = |source| EnvError::Field {
            name: name.to_owned(),
            source,
        };
        if let Some(reference) = &source.field_ref {
            let value = fields::field(self.pod, self.place, &reference.field_path);
            return value.map(Some).map_err(wrong);
        }
        if let Some(reference) = &source.resource_field_ref {
            let value = fields::resource(self.pod, &container.name, self.capacity, reference);
            return value.map(Some).map_err(wrong);
        }
        if let Some(reference) = &source.config_map_key_ref {
            let optional = reference.optional.unwrap_or(false);
            let values = self.config_map(&reference.name, optional)?;
            return self.key(
                "configmap",
                values,
                &reference.name,
                &reference.key,
                optional,
            );
        }
        if let Some(reference) = &source.secret_key_ref {
            let optional = reference.optional.unwrap_or(false);
            let values = self.secret(&reference.name, optional)?;
            return self.key("secret", values, &reference.name, &reference.key, optional);
        }
        match source.file_key_ref {
            Some(_) => Err(EnvError::FileKey(name.to_owned())),
            None => Ok(None),
        }
    }

    fn key(
        &self,
        kind: &'static str,
        values: Option<BTreeMap<String, String>>,
        name: &str,
        key: &str,
        optional: bool,
    ) -> Result<Option<String>, EnvError> {
        match values.and_then(|mut values| values.remove(key)) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey {
                kind,
                namespace: self.namespace().to_owned(),
                name: name.to_owned(),
                key: key.to_owned(),
            }),
        }
    }

    fn bulk(&self, container: &Container) -> Result<Vec<(String, String)>, EnvError> {
        let mut all = Vec::new();
        for source in container.env_from.iter().flatten() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            let values = if let Some(reference) = &source.config_map_ref {
                self.config_map(&reference.name, reference.optional.unwrap_or(false))?
            } else if let Some(reference) = &source.secret_ref {
                self.secret(&reference.name, reference.optional.unwrap_or(false))?
            } else {
                None
            };
            for (key, value) in values.into_iter().flatten() {
                all.push((format!("{prefix}{key}"), value));
            }
        }
        Ok(all)
    }

    fn config_map(
        &self,
        name: &str,
        optional: bool,
    ) -> Result<Option<BTreeMap<String, String>>, EnvError> {
        let key = Key::new(self.namespace(), name);
        let found = object::find::<ConfigMap>(self.client, &kinds::CONFIG_MAPS, &key);
        match found.map_err(EnvError::Api)? {
            Some(found) => Ok(Some(found.data.unwrap_or_default())),
            None if optional => Ok(None),
            None => Err(EnvError::Missing {
                kind: "configmap",
                name: name.to_owned(),
            }),
        }
    }

    fn secret(
        &self,
        name: &str,
        optional: bool,
    ) -> Result<Option<BTreeMap<String, String>>, EnvError> {
        let key = Key::new(self.namespace(), name);
        let found = object::find::<Secret>(self.client, &kinds::SECRETS, &key);
        match found.map_err(EnvError::Api)? {
            Some(found) => {
                let data = found.data.unwrap_or_default().into_iter();
                let text =
                    data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()));
                Ok(Some(text.collect()))
            }
            None if optional => Ok(None),
            None => Err(EnvError::Missing {
                kind: "secret",
                name: name.to_owned(),
            }),
        }
    }

    /// `{SVC}_SERVICE_HOST` and its Docker-link relatives: of the pod's namespace if it wants
    /// them, and always of `default/kubernetes`.
    fn service_variables(&self, links: bool) -> Result<Vec<(String, String)>, EnvError> {
        let any = |_: &Value| true;
        let mut services: Vec<Service> = Vec::new();
        let master = Key::new("default", "kubernetes");
        let find = |key: &Key| object::find::<Service>(self.client, &kinds::SERVICES, key);
        services.extend(find(&master).map_err(EnvError::Api)?);
        if links {
            let namespace = Some(self.namespace());
            let own = object::list(self.client, &kinds::SERVICES, namespace, any);
            services.extend(own.map_err(EnvError::Api)?);
        }
        Ok(services.iter().flat_map(variables_of).collect())
    }
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let address = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(address), Some(first)) = (address, ports.first()) else {
        return Vec::new();
    };
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let protocol = |text: Option<&String>| text.map_or("TCP", String::as_str).to_owned();
    let mut all = vec![
        (format!("{name}_SERVICE_HOST"), address.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let key = format!("{name}_SERVICE_PORT_{}", upper(port_name));
            all.push((key, port.port.to_string()));
        }
    }
    let url =
        |protocol: &str, port: i32| format!("{}://{address}:{port}", protocol.to_ascii_lowercase());
    all.push((
        format!("{name}_PORT"),
        url(&protocol(first.protocol.as_ref()), first.port),
    ));
    for port in ports {
        let protocol = protocol(port.protocol.as_ref());
        let stem = format!("{name}_PORT_{}_{protocol}", port.port);
        all.extend([
            (stem.clone(), url(&protocol, port.port)),
            (format!("{stem}_PROTO"), protocol.to_ascii_lowercase()),
            (format!("{stem}_PORT"), port.port.to_string()),
            (format!("{stem}_ADDR"), address.to_owned()),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::Environment;

    #[test]
    fn references_expand_as_in_kubernetes() {
        let mut environment = Environment::default();
        environment.set("A", "1".to_owned());
        environment.set("B", "two".to_owned());
        for (text, wanted) in [
            ("$(A)-$(B)", "1-two"),
            ("$$(A)", "$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("$(A", "$(A"),
            ("cost: $5 $", "cost: $5 $"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(environment.expand(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_is_there_once_with_its_last_value() {
        let mut environment = Environment::default();
        for value in ["x", "y"] {
            environment.set("A", value.to_owned());
        }
        assert_eq!(environment.into_pairs(), [("A".to_owned(), "y".to_owned())]);
    }
}
