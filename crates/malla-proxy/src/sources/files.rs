//! Configuration in files: a `DiscoveryResponse` each, as YAML, JSON or bytes; and secrets made of files.
//!
//! A file says everything there is of its type: what it no longer holds is gone (of clusters and listeners). It is read
//! when it is first named and whenever something is moved over it, never while it is being written.
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use malla_proxy_config::config_source::PathOrigin;
use malla_xds::client::{Interest, Received, Rejection, Update};
use malla_xds::resource::{content_version, embedded_name};
use malla_xds::{Name, Version};
use malla_xds_proto::discovery::DiscoveryResponse;
use malla_xds_proto::{any, json, type_url};
use prost::Message as _;

use super::watch::{Directories, Moved, Watcher, parent};
use crate::apply::Applier;

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// What is known of files.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) directories: Directories,
    /// What each file has given, with its version.
    held: HashMap<(Arc<PathOrigin>, String), HashMap<Name, Version>>,
    /// Secrets made of files.
    secrets: Vec<SecretFiles>,
}

#[derive(Debug)]
struct SecretFiles {
    name: Arc<str>,
    files: Vec<Arc<Path>>,
    watched: Option<Arc<Path>>,
}

impl Files {
    pub(super) fn watch(&mut self, origin: &PathOrigin, watcher: Option<&Watcher>) {
        let directory = origin.watched_directory.as_deref();
        self.add(directory.unwrap_or_else(|| parent(&origin.path)), watcher);
    }

    pub(super) fn add(&mut self, directory: &Path, watcher: Option<&Watcher>) {
        let Some(watcher) = watcher else { return };
        if let Err(error) = watcher.add(&mut self.directories, directory) {
            let directory = directory.display();
            tracing::warn!(%directory, %error, "changes in this directory will not be noticed");
        }
    }

    /// What a file says now, as a response: only what is new, changed or gone.
    ///
    /// # Errors
    /// When it cannot be read or is no discovery response.
    pub(super) fn read(
        &self,
        origin: &Arc<PathOrigin>,
        type_url: &str,
        wanted: &Interest,
    ) -> Result<(Update, Vec<Rejection>), String> {
        let response = parse(&origin.path)?;
        let known = self.held.get(&(Arc::clone(origin), type_url.to_owned()));
        let mut resources = Vec::new();
        let mut rejected = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, resource) in response.resources.into_iter().enumerate() {
            let (name, body) = match unwrap(resource, type_url) {
                Ok(found) => found,
                Err(reason) => {
                    let name = Name::from(format!("resource {}", index + 1));
                    rejected.push(Rejection { name, reason });
                    continue;
                }
            };
            if !wanted.covers(&name) {
                continue;
            }
            if !seen.insert(name.clone()) {
                let reason = "it is in the file twice".to_owned();
                rejected.push(Rejection { name, reason });
                continue;
            }
            let version = content_version(&body);
            if known.and_then(|known| known.get(&name)) != Some(&version) {
                resources.push(Received {
                    name,
                    version,
                    body,
                });
            }
        }
        let gone = known.into_iter().flat_map(HashMap::keys);
        let removed = gone
            .filter(|name| wanted.wildcard && !seen.contains(*name))
            .cloned()
            .collect();
        let update = Update {
            type_url: type_url.into(),
            resources,
            removed,
            version: response.version_info,
        };
        Ok((update, rejected))
    }

    /// Remembers what of an update is in use.
    pub(super) fn applied(
        &mut self,
        origin: &Arc<PathOrigin>,
        update: &Update,
        rejected: &[Rejection],
    ) {
        let key = (Arc::clone(origin), update.type_url.as_str().to_owned());
        let held = self.held.entry(key).or_default();
        for name in &update.removed {
            held.remove(name);
        }
        for received in &update.resources {
            if rejected
                .iter()
                .all(|rejection| rejection.name != received.name)
            {
                held.insert(received.name.clone(), received.version.clone());
            }
        }
    }

    /// Watches what the secrets in use are made of.
    pub(super) fn follow_secrets(&mut self, applier: &Applier, watcher: Option<&Watcher>) {
        let secrets = applier.secrets_from_files().map(|secret| {
            let (files, watched) = secret.files();
            SecretFiles {
                name: Arc::clone(&secret.name),
                files,
                watched,
            }
        });
        self.secrets = secrets.collect();
        let mut directories: BTreeSet<Arc<Path>> = BTreeSet::new();
        for secret in &self.secrets {
            match &secret.watched {
                Some(watched) => drop(directories.insert(Arc::clone(watched))),
                None => directories.extend(secret.files.iter().map(|file| Arc::from(parent(file)))),
            }
        }
        for directory in directories {
            self.add(&directory, watcher);
        }
    }

    /// The secrets whose files were replaced.
    pub(super) fn secrets_concerned(&self, moved: &HashSet<Moved>) -> Vec<Arc<str>> {
        let concerned = |secret: &&SecretFiles| {
            let watched = secret.watched.as_deref();
            let mut files = secret.files.iter();
            files.any(|file| moved.iter().any(|one| one.concerns(file, watched)))
        };
        let found = self.secrets.iter().filter(concerned);
        found.map(|secret| Arc::clone(&secret.name)).collect()
    }
}

fn parse(path: &Path) -> Result<DiscoveryResponse, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > MAX_FILE {
        return Err(format!("it has {size} bytes; at most {MAX_FILE} are read"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => DiscoveryResponse::decode(&*bytes).map_err(|error| error.to_string()),
        Some("pb_text") => Err("text protobuf is not supported by this proxy; use YAML".to_owned()),
        _ => {
            let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
            json::from_yaml(&text).map_err(|error| error.to_string())
        }
    }
}

/// The name and content of a resource of this type, out of the wrapper it may be in.
fn unwrap(resource: malla_xds_proto::Any, expected: &str) -> Result<(Name, Bytes), String> {
    const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
    let (name, inner) = if resource.type_url == WRAPPER {
        let wrapped: malla_xds_proto::discovery::Resource =
            any::unpack(&resource).map_err(|error| error.to_string())?;
        let inner = wrapped.resource.ok_or("it has no content")?;
        (Some(wrapped.name), inner)
    } else {
        (None, resource)
    };
    if inner.type_url != expected {
        return Err(format!(
            "it is of type {} (expected {expected})",
            inner.type_url
        ));
    }
    let body = Bytes::from(inner.value);
    let name = match name {
        Some(name) => name,
        None => embedded_name(&body)
            .map(ToOwned::to_owned)
            .ok_or_else(|| format!("a {} without a name", type_url::message_name(expected)))?,
    };
    Ok((Name::from(name), body))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use malla_proxy_config::config_source::PathOrigin;
    use malla_xds::client::Interest;
    use malla_xds_proto::type_url::CLUSTER;

    use super::Files;

    fn read(file: &str, text: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        let origin = Arc::new(PathOrigin {
            path: path.into(),
            watched_directory: None,
        });
        let (update, rejected) = Files::default().read(&origin, CLUSTER, &Interest::all())?;
        let names = update.resources.iter().map(|one| one.name.to_string());
        let reasons = rejected
            .iter()
            .map(|one| format!("{}: {}", one.name, one.reason));
        Ok((names.collect(), reasons.collect()))
    }

    #[test]
    fn what_a_file_holds_is_taken_or_named() {
        let a = "{ \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a }";
        let check = |resources: &str, names: &[&str], reason: &str| {
            let (got, reasons) =
                read("x.yaml", format!("resources: [ {resources} ]").as_bytes()).unwrap();
            assert_eq!(got, names, "{resources}");
            assert_eq!(
                reasons.join(";").contains(reason),
                !reason.is_empty() || reasons.is_empty(),
                "{reasons:?}"
            );
            assert_eq!(
                reasons.is_empty(),
                reason.is_empty(),
                "{resources}: {reasons:?}"
            );
        };
        check(a, &["a"], "");
        check(&format!("{a}, {a}"), &["a"], "twice");
        check(
            &format!(
                "{{ \"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource, name: b, resource: {a} }}"
            ),
            &["b"],
            "",
        );
        check(
            "{ \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: a }",
            &[],
            "expected type.googleapis.com/envoy.config.cluster.v3.Cluster",
        );
        check(&a.replace(", name: a", ""), &[], "without a name");
    }

    #[test]
    fn what_is_no_configuration_is_refused_as_a_whole() {
        let check = |file: &str, text: &[u8], want: &str| {
            let error = read(file, text).unwrap_err();
            assert!(error.contains(want), "{error}");
        };
        check("x.yaml", b"resources: [ {", "");
        check("x.yaml", b"bogus: 1", "bogus");
        check("x.yaml", b"\xff\xfe", "utf-8");
        check("x.pb", b"\xff\xff\xff", "");
        check("x.pb_text", b"", "not supported");
    }
}
