//! The volumes of a pod, and where containers mount them.
//!
//! Volumes with contents from the API (configMap, secret, downwardAPI, projected) live in memory
//! and are kept up to date while the pod runs; an emptyDir lives beside the pod's logs, or in memory.
//!
//! Invariants: such contents change all at once (see `payload`); a `subPath` cannot lead out of its
//! volume.

mod contents;
mod payload;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};
use malla_apiserver::ApiError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use self::contents::{Contents, Renderer, TokenCache};
use self::payload::Payload;
use super::env::Environment;
use super::fields::{self, Capacity, FieldError, Place};
use crate::object::Key;
use crate::process::{Mount, MountKind};

/// Why a pod's volumes are not ready (`FailedMount`).
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("volume {volume:?}: {kind} {name:?} not found")]
    Missing {
        volume: String,
        kind: &'static str,
        name: String,
    },
    #[error("volume {volume:?}: {kind} {name:?} has no key {key:?}")]
    NoKey {
        volume: String,
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error(
        "volume {volume:?}: this node serves emptyDir, configMap, secret, downwardAPI, projected and hostPath, not {kind}"
    )]
    Unsupported { volume: String, kind: &'static str },
    #[error("volume {volume:?}: {source}")]
    Field { volume: String, source: FieldError },
    #[error("volume {volume:?}: hostPath {path}: {problem}")]
    HostPath {
        volume: String,
        path: String,
        problem: String,
    },
    #[error("volume {volume:?}: {source}")]
    Io { volume: String, source: io::Error },
    #[error("volume {volume:?}: {}", .source.message())]
    Api { volume: String, source: ApiError },
    #[error("volumeMounts: no volume is named {0:?}")]
    NoVolume(String),
    #[error("volumeMounts {mount:?}: subPath {path:?} {problem}")]
    SubPath {
        mount: String,
        path: String,
        problem: &'static str,
    },
}

/// Where a pod's volumes are kept.
#[derive(Debug, Clone)]
pub(super) struct Directories {
    /// On disk.
    pub(super) disk: PathBuf,
    /// In memory.
    pub(super) memory: PathBuf,
}

/// A pod's volumes, ready to be mounted.
#[derive(Debug)]
pub(super) struct VolumeSet {
    volumes: BTreeMap<String, Ready>,
    group: Option<u32>,
    rendered: Mutex<BTreeMap<String, Payload>>,
    tokens: TokenCache,
    mounted: Vec<PathBuf>,
}

#[derive(Debug)]
struct Ready {
    path: PathBuf,
    /// Contents from the API, which containers only read.
    contents: Option<Contents>,
}

/// What volumes are made from.
pub(super) struct Inputs<'a> {
    pub(super) client: &'a malla_apiserver::Client,
    pub(super) pod: &'a Pod,
    pub(super) place: &'a Place,
    pub(super) capacity: Capacity,
}

impl VolumeSet {
    /// Makes all volumes. May be called again after a failure.
    pub(super) async fn prepare(
        inputs: &Inputs<'_>,
        directories: &Directories,
    ) -> Result<Self, VolumeError> {
        let spec = inputs.pod.spec.clone().unwrap_or_default();
        let group = spec.security_context.and_then(|context| context.fs_group);
        let mut set = Self {
            volumes: BTreeMap::new(),
            group: group.and_then(|group| u32::try_from(group).ok()),
            rendered: Mutex::default(),
            tokens: TokenCache::default(),
            mounted: Vec::new(),
        };
        for volume in spec.volumes.into_iter().flatten() {
            let name = volume.name.clone();
            let ready = set.make(volume, directories).map_err(|error| match error {
                Made::Refused(error) => error,
                Made::Io(source) => VolumeError::Io {
                    volume: name.clone(),
                    source,
                },
            })?;
            set.volumes.insert(name, ready);
        }
        set.refresh(inputs).await?;
        Ok(set)
    }

    fn make(&mut self, volume: Volume, directories: &Directories) -> Result<Ready, Made> {
        if let Some(empty) = &volume.empty_dir {
            let path = directories.disk.join("volumes").join(&volume.name);
            fs::create_dir_all(&path)?;
            if empty.medium.as_deref() == Some("Memory") {
                let limit = empty
                    .size_limit
                    .as_ref()
                    .map(|limit| fields::milli(&limit.0));
                let bytes = limit.transpose().map_err(|source| {
                    Made::Refused(VolumeError::Field {
                        volume: volume.name.clone(),
                        source,
                    })
                })?;
                self.mount_memory(&path, bytes.map(|milli| milli / 1000))?;
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            place::give_to_group(&path, self.group)?;
            return Ok(Ready {
                path,
                contents: None,
            });
        }
        if let Some(host) = &volume.host_path {
            let path = host_path(&volume.name, host).map_err(Made::Refused)?;
            return Ok(Ready {
                path,
                contents: None,
            });
        }
        let contents = Contents::of(&volume).map_err(Made::Refused)?;
        let path = directories.memory.join(&volume.name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Ready {
            path,
            contents: Some(contents),
        })
    }

    fn mount_memory(&mut self, path: &Path, bytes: Option<i128>) -> io::Result<()> {
        let size = bytes
            .filter(|bytes| *bytes > 0)
            .map(|bytes| format!("size={bytes}"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, size.as_deref())?;
        self.mounted.push(path.to_path_buf());
        Ok(())
    }

    /// Brings contents from the API up to date; says when a token must be renewed.
    pub(super) async fn refresh(
        &self,
        inputs: &Inputs<'_>,
    ) -> Result<Option<Timestamp>, VolumeError> {
        let mut renew: Option<Timestamp> = None;
        for (name, ready) in &self.volumes {
            let Some(contents) = &ready.contents else {
                continue;
            };
            let renderer = Renderer {
                inputs,
                volume: name,
                tokens: &self.tokens,
            };
            let (payload, due) = renderer.render(contents).await?;
            renew = renew.into_iter().chain(due).min();
            let known = self.rendered().get(name) == Some(&payload);
            if !known {
                let written = payload.write(&ready.path, self.group);
                written.map_err(|source| VolumeError::Io {
                    volume: name.clone(),
                    source,
                })?;
                self.rendered().insert(name.clone(), payload);
            }
        }
        Ok(renew)
    }

    fn rendered(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Payload>> {
        self.rendered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// ConfigMaps and Secrets whose changes concern the volumes.
    pub(super) fn watched(&self, namespace: &str) -> BTreeSet<Key> {
        let contents = self
            .volumes
            .values()
            .filter_map(|ready| ready.contents.as_ref());
        let names = contents.flat_map(Contents::names);
        names.map(|name| Key::new(namespace, name)).collect()
    }

    /// What `container` mounts, outer paths first.
    pub(super) fn mounts(
        &self,
        container: &Container,
        environment: &Environment,
    ) -> Result<Vec<Mount>, VolumeError> {
        let mut mounts = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let ready = self
                .volumes
                .get(&wanted.name)
                .ok_or_else(|| VolumeError::NoVolume(wanted.name.clone()))?;
            let below = match (&wanted.sub_path, &wanted.sub_path_expr) {
                (Some(path), _) if !path.is_empty() => Some(path.clone()),
                (_, Some(path)) if !path.is_empty() => Some(environment.expand(path)),
                _ => None,
            };
            let source = match below {
                None => ready.path.clone(),
                Some(below) => place::inside(&ready.path, &below, ready.contents.is_none())
                    .map_err(|problem| VolumeError::SubPath {
                        mount: wanted.mount_path.clone(),
                        path: below,
                        problem,
                    })?,
            };
            mounts.push(Mount {
                target: PathBuf::from(&wanted.mount_path),
                kind: MountKind::Bind { source },
                read_only: wanted.read_only.unwrap_or(false) || ready.contents.is_some(),
            });
        }
        mounts.sort_by_key(|mount| mount.target.components().count());
        Ok(mounts)
    }
}

impl Drop for VolumeSet {
    fn drop(&mut self) {
        for path in &self.mounted {
            if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
                tracing::debug!(%error, path = %path.display(), "a memory volume was already gone");
            }
        }
    }
}

enum Made {
    Refused(VolumeError),
    Io(io::Error),
}

impl From<io::Error> for Made {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<nix::errno::Errno> for Made {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Checks a hostPath as its `type` says.
fn host_path(volume: &str, source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let refuse = |problem: String| VolumeError::HostPath {
        volume: volume.to_owned(),
        path: source.path.clone(),
        problem,
    };
    let create = |made: io::Result<()>| made.map_err(|error| refuse(error.to_string()));
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" => create(fs::create_dir_all(&path))?,
        "FileOrCreate" if !path.exists() => create(fs::File::create(&path).map(drop))?,
        _ => {}
    }
    let found = fs::metadata(&path).map_err(|error| refuse(error.to_string()))?;
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()),
        "CharDevice" => std::os::unix::fs::FileTypeExt::is_char_device(&found.file_type()),
        "BlockDevice" => std::os::unix::fs::FileTypeExt::is_block_device(&found.file_type()),
        _ => true,
    };
    if fits {
        Ok(path)
    } else {
        Err(refuse(format!("is not of type {kind}")))
    }
}
