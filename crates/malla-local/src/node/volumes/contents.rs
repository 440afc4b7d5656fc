//! Contents from the API: what volumes of kinds configMap, secret, downwardAPI and projected hold.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};
use malla_apiserver::{ApiError, BoundObject, TokenParams, kinds};

use super::payload::{Payload, PayloadFile};
use super::{Inputs, VolumeError};
use crate::node::fields;
use crate::object::{self, Key};

/// `defaultMode` when it is not set.
const DEFAULT_MODE: i32 = 0o644;
/// `expirationSeconds` when it is not set.
const TOKEN_SECONDS: i64 = 3600;

/// One thing a volume holds.
#[derive(Debug, Clone)]
enum Source {
    ConfigMap {
        name: String,
        items: Option<Vec<KeyToPath>>,
        optional: bool,
    },
    Secret {
        name: String,
        items: Option<Vec<KeyToPath>>,
        optional: bool,
    },
    Downward(Vec<DownwardAPIVolumeFile>),
    Token(ServiceAccountTokenProjection),
}

/// All that a volume holds.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    sources: Vec<Source>,
    mode: i32,
}

impl Contents {
    pub(super) fn of(volume: &Volume) -> Result<Self, VolumeError> {
        let contents = |source: Source, mode: Option<i32>| Self {
            sources: vec![source],
            mode: mode.unwrap_or(DEFAULT_MODE),
        };
        if let Some(map) = volume.config_map.clone() {
            let source = Source::ConfigMap {
                name: map.name,
                items: map.items,
                optional: map.optional.unwrap_or(false),
            };
            return Ok(contents(source, map.default_mode));
        }
        if let Some(secret) = volume.secret.clone() {
            let source = Source::Secret {
                name: secret.secret_name.unwrap_or_default(),
                items: secret.items,
                optional: secret.optional.unwrap_or(false),
            };
            return Ok(contents(source, secret.default_mode));
        }
        if let Some(downward) = volume.downward_api.clone() {
            let source = Source::Downward(downward.items.unwrap_or_default());
            return Ok(contents(source, downward.default_mode));
        }
        if let Some(projected) = volume.projected.clone() {
            let sources = projected.sources.unwrap_or_default().into_iter();
            let sources: Result<_, _> = sources.map(|one| projection(&volume.name, one)).collect();
            return Ok(Self {
                sources: sources?,
                mode: projected.default_mode.unwrap_or(DEFAULT_MODE),
            });
        }
        Err(VolumeError::Unsupported {
            volume: volume.name.clone(),
            kind: kind_of(volume),
        })
    }

    /// Names of the ConfigMaps and Secrets in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter_map(|source| match source {
            Source::ConfigMap { name, .. } | Source::Secret { name, .. } => Some(name.as_str()),
            Source::Downward(_) | Source::Token(_) => None,
        })
    }
}

fn projection(volume: &str, source: VolumeProjection) -> Result<Source, VolumeError> {
    if let Some(map) = source.config_map {
        return Ok(Source::ConfigMap {
            name: map.name,
            items: map.items,
            optional: map.optional.unwrap_or(false),
        });
    }
    if let Some(secret) = source.secret {
        return Ok(Source::Secret {
            name: secret.name,
            items: secret.items,
            optional: secret.optional.unwrap_or(false),
        });
    }
    if let Some(downward) = source.downward_api {
        return Ok(Source::Downward(downward.items.unwrap_or_default()));
    }
    if let Some(token) = source.service_account_token {
        return Ok(Source::Token(token));
    }
    let kind = if source.cluster_trust_bundle.is_some() {
        "projected.clusterTrustBundle"
    } else if source.pod_certificate.is_some() {
        "projected.podCertificate"
    } else {
        "an empty projected source"
    };
    Err(VolumeError::Unsupported {
        volume: volume.to_owned(),
        kind,
    })
}

/// The kind of a volume this node does not serve.
fn kind_of(volume: &Volume) -> &'static str {
    let kinds = [
        (
            volume.persistent_volume_claim.is_some(),
            "persistentVolumeClaim",
        ),
        (volume.csi.is_some(), "csi"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.nfs.is_some(), "nfs"),
        (volume.image.is_some(), "image"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.iscsi.is_some(), "iscsi"),
    ];
    let found = kinds.iter().find(|(is, _)| *is);
    found.map_or("this kind of volume", |(_, kind)| kind)
}

/// Tokens that are still good, by path in their volume.
#[derive(Debug, Default)]
pub(super) struct TokenCache(Mutex<BTreeMap<(String, String), Issued>>);

#[derive(Debug, Clone)]
struct Issued {
    token: String,
    renew: Timestamp,
}

/// Renders one volume.
pub(super) struct Renderer<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) volume: &'a str,
    pub(super) tokens: &'a TokenCache,
}

impl Renderer<'_> {
    /// The files, and when the first token must be renewed.
    pub(super) async fn render(
        &self,
        contents: &Contents,
    ) -> Result<(Payload, Option<Timestamp>), VolumeError> {
        let mut payload = Payload::default();
        let mut renew: Option<Timestamp> = None;
        for source in &contents.sources {
            match source {
                Source::ConfigMap {
                    name,
                    items,
                    optional,
                } => {
                    let data = self.config_map(name)?;
                    self.keys(
                        &mut payload,
                        contents.mode,
                        "configmap",
                        name,
                        data,
                        items,
                        *optional,
                    )?;
                }
                Source::Secret {
                    name,
                    items,
                    optional,
                } => {
                    let data = self.secret(name)?;
                    self.keys(
                        &mut payload,
                        contents.mode,
                        "secret",
                        name,
                        data,
                        items,
                        *optional,
                    )?;
                }
                Source::Downward(files) => self.downward(&mut payload, contents.mode, files)?,
                Source::Token(token) => {
                    let issued = self.token(token).await?;
                    renew = renew.into_iter().chain([issued.renew]).min();
                    let bytes = issued.token.into_bytes();
                    add(&mut payload, &token.path, bytes, contents.mode);
                }
            }
        }
        Ok((payload, renew))
    }

    fn namespace(&self) -> &str {
        self.inputs
            .pod
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
    }

    fn api(&self, source: ApiError) -> VolumeError {
        VolumeError::Api {
            volume: self.volume.to_owned(),
            source,
        }
    }

    fn config_map(&self, name: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, VolumeError> {
        let key = Key::new(self.namespace(), name);
        let found = object::find::<ConfigMap>(self.inputs.client, &kinds::CONFIG_MAPS, &key);
        let found = found.map_err(|error| self.api(error))?;
        Ok(found.map(|map| {
            let text = map.data.unwrap_or_default().into_iter();
            let binary = map.binary_data.unwrap_or_default().into_iter();
            text.map(|(key, value)| (key, value.into_bytes()))
                .chain(binary.map(|(key, value)| (key, value.0)))
                .collect()
        }))
    }

    fn secret(&self, name: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, VolumeError> {
        let key = Key::new(self.namespace(), name);
        let found = object::find::<Secret>(self.inputs.client, &kinds::SECRETS, &key);
        let found = found.map_err(|error| self.api(error))?;
        Ok(found.map(|secret| {
            let data = secret.data.unwrap_or_default().into_iter();
            data.map(|(key, value)| (key, value.0)).collect()
        }))
    }

    #[expect(clippy::too_many_arguments, reason = "one source, spelled out")]
    fn keys(
        &self,
        payload: &mut Payload,
        mode: i32,
        kind: &'static str,
        name: &str,
        data: Option<BTreeMap<String, Vec<u8>>>,
        items: &Option<Vec<KeyToPath>>,
        optional: bool,
    ) -> Result<(), VolumeError> {
        let Some(mut data) = data else {
            if optional {
                return Ok(());
            }
            return Err(VolumeError::Missing {
                volume: self.volume.to_owned(),
                kind,
                name: name.to_owned(),
            });
        };
        let Some(items) = items.as_ref().filter(|items| !items.is_empty()) else {
            for (key, bytes) in data {
                add(payload, &key, bytes, mode);
            }
            return Ok(());
        };
        for item in items {
            match data.remove(&item.key) {
                Some(bytes) => add(payload, &item.path, bytes, item.mode.unwrap_or(mode)),
                None if optional => {}
                None => {
                    return Err(VolumeError::NoKey {
                        volume: self.volume.to_owned(),
                        kind,
                        name: name.to_owned(),
                        key: item.key.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        payload: &mut Payload,
        mode: i32,
        files: &[DownwardAPIVolumeFile],
    ) -> Result<(), VolumeError> {
        let Inputs {
            pod,
            place,
            capacity,
            ..
        } = self.inputs;
        for file in files {
            let value = match (&file.field_ref, &file.resource_field_ref) {
                (Some(reference), _) => fields::field(pod, place, &reference.field_path),
                (None, Some(reference)) => fields::resource(pod, "", *capacity, reference),
                (None, None) => Ok(String::new()),
            };
            let value = value.map_err(|source| VolumeError::Field {
                volume: self.volume.to_owned(),
                source,
            })?;
            add(
                payload,
                &file.path,
                value.into_bytes(),
                file.mode.unwrap_or(mode),
            );
        }
        Ok(())
    }

    /// A token that has a fifth of its life left at least.
    async fn token(&self, wanted: &ServiceAccountTokenProjection) -> Result<Issued, VolumeError> {
        let slot = (self.volume.to_owned(), wanted.path.clone());
        let now = Timestamp::now();
        let known = self.tokens.lock().get(&slot).cloned();
        if let Some(known) = known.filter(|known| known.renew > now) {
            return Ok(known);
        }
        let pod = self.inputs.pod;
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let params = TokenParams {
            audiences: wanted
                .audience
                .iter()
                .filter(|one| !one.is_empty())
                .cloned()
                .collect(),
            expiration_seconds: Some(seconds.max(0).unsigned_abs()),
            bound_object: Some(BoundObject {
                kind: "Pod".to_owned(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
            }),
        };
        let account = account.unwrap_or_else(|| "default".to_owned());
        let client = self.inputs.client;
        let made = client
            .create_token(self.namespace(), &account, &params)
            .await;
        let made = made.map_err(|error| self.api(error))?;
        let life = made.expires.duration_since(now);
        let four_fifths = life.checked_mul(4).and_then(|life| life.checked_div(5));
        let renew = now
            .checked_add(four_fifths.unwrap_or(SignedDuration::ZERO))
            .unwrap_or(now);
        let issued = Issued {
            token: made.token,
            renew,
        };
        self.tokens.lock().insert(slot, issued.clone());
        Ok(issued)
    }
}

impl TokenCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(payload: &mut Payload, path: &str, bytes: Vec<u8>, mode: i32) {
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    payload
        .0
        .insert(path.to_owned(), PayloadFile { bytes, mode });
}
