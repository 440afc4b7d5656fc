//! Images: names mapped to commands of this machine.
//!
//! Entries of the ConfigMap `kube-system/malla-images` come before those the cluster was started
//! with; among the entries of one source, an exact pattern comes before a repository, and that
//! before a glob, the longer before the shorter. A ConfigMap entry is a key of any name with a JSON
//! value: `{"image": "PATTERN", "command": ["PROGRAM", "ARG", …]}`.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

/// Where the editable table is.
pub const CONFIG_MAP: (&str, &str) = ("kube-system", "malla-images");

/// A pattern of image names, and what they run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// An image reference, a repository without registry and tag (`malla`, `tcm-demo/cart`), or
    /// either with `*` for any run of characters.
    pub image: String,
    /// The image's entry point: what `command` of a container replaces. May be empty if there
    /// are `args`.
    #[serde(default)]
    pub command: Vec<String>,
    /// The image's default arguments: what `command` or `args` of a container replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

impl Image {
    /// Images of everyday tools that most machines have: `kubectl run -it --image=busybox` works.
    pub fn everyday() -> Vec<Self> {
        let shell = |name: &str| Self {
            image: name.to_owned(),
            command: Vec::new(),
            args: vec!["sh".to_owned()],
        };
        let mut images: Vec<Self> = ["busybox", "alpine", "debian", "ubuntu"]
            .map(shell)
            .to_vec();
        images.push(Self::new("curlimages/curl", &["curl"]));
        images.push(Self::new("pause", &["sleep", "infinity"]));
        images
    }

    pub fn new(image: impl Into<String>, command: &[&str]) -> Self {
        Self {
            image: image.into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            args: Vec::new(),
        }
    }
}

impl Image {
    /// The key and value of this entry in the table's ConfigMap.
    pub fn entry(&self) -> Result<(String, String), serde_json::Error> {
        // Keys allow few characters; the hash keeps patterns apart that differ in others.
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = self.image.chars().map(plain).take(200).collect();
        let hash = self.image.bytes().fold(0x811c_9dc5_u32, |state, byte| {
            (state ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Ok((
            format!("{}.{hash:08x}", name.trim_matches('-')),
            serde_json::to_string(self)?,
        ))
    }
}

/// The table of images; what it holds can change at any time.
#[derive(Debug)]
pub(crate) struct Images {
    fixed: Vec<Image>,
    edited: RwLock<Arc<Vec<Image>>>,
    changes: watch::Sender<u64>,
}

impl Images {
    pub(crate) fn new(fixed: Vec<Image>) -> Self {
        Self {
            fixed,
            edited: RwLock::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Takes the ConfigMap's data; entries that cannot be read are reported and left out.
    pub(crate) fn edit(&self, config_map: Option<&Value>) -> Vec<String> {
        let data = config_map
            .and_then(|map| map.get("data"))
            .and_then(Value::as_object);
        let mut complaints = Vec::new();
        let mut images = Vec::new();
        for (key, value) in data.into_iter().flatten() {
            let parsed = serde_json::from_str::<Image>(value.as_str().unwrap_or_default());
            match parsed {
                Ok(image) if image.command.is_empty() && image.args.is_empty() => {
                    complaints.push(format!("data.{key}: command is empty"));
                }
                Ok(image) => images.push(image),
                Err(error) => complaints.push(format!(
                    "data.{key}: {error}; expected {{\"image\": PATTERN, \"command\": [PROGRAM, …]}}"
                )),
            }
        }
        *self.edited.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(images);
        self.changes.send_modify(|version| *version += 1);
        complaints
    }

    /// Ticks when the table changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What an image runs.
    pub(crate) fn find(&self, reference: &str) -> Option<Image> {
        let edited = Arc::clone(&self.edited.read().unwrap_or_else(PoisonError::into_inner));
        best(&edited, reference)
            .or_else(|| best(&self.fixed, reference))
            .cloned()
    }
}

fn best<'a>(images: &'a [Image], reference: &str) -> Option<&'a Image> {
    let fits = images.iter().filter_map(|image| {
        rank(&image.image, reference).map(|rank| ((rank, image.image.len()), image))
    });
    fits.max_by_key(|(rank, _)| *rank).map(|(_, image)| image)
}

/// How well a pattern fits a reference: exact, repository, path end, glob.
fn rank(pattern: &str, reference: &str) -> Option<u8> {
    if pattern == reference {
        return Some(3);
    }
    let repository = without_tag(reference);
    let bare = without_registry(repository);
    if !pattern.contains('*') {
        let ends =
            [repository, bare].contains(&pattern) || bare.strip_prefix("library/") == Some(pattern);
        return ends.then_some(2);
    }
    let any = [reference, repository, without_registry(reference), bare];
    any.iter().any(|text| glob(pattern, text)).then_some(1)
}

/// `registry/path/name:tag@digest` without tag and digest.
fn without_tag(reference: &str) -> &str {
    let named = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    match named.get(last..).and_then(|name| name.find(':')) {
        Some(colon) => named.get(..last + colon).unwrap_or(named),
        None => named,
    }
}

/// Leaves out a first part that can only be a registry (with a dot or a port, or `localhost`).
fn without_registry(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((first, rest))
            if first.contains('.') || first.contains(':') || first == "localhost" =>
        {
            rest
        }
        _ => repository,
    }
}

/// `*` stands for any run of characters, `/` included.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Image, Images, glob, rank};

    #[test]
    fn patterns_fit_as_documented() {
        for (pattern, reference, wanted) in [
            ("ccr.x.com/demo/cart:v1", "ccr.x.com/demo/cart:v1", Some(3)),
            ("demo/cart", "ccr.x.com/demo/cart:v1", Some(2)),
            ("cart", "ccr.x.com/demo/cart:v1", None),
            ("*/cart", "ccr.x.com/demo/cart:v1", Some(1)),
            ("*/cart:v*", "ccr.x.com/demo/cart:v1", Some(1)),
            ("busybox", "docker.io/library/busybox:1.36", Some(2)),
            ("busybox", "busybox@sha256:00", Some(2)),
            ("busybox", "localhost:5000/busybox", Some(2)),
            ("*/testorder2", "ccr.x.com/zhulei/testorder:v1", None),
        ] {
            assert_eq!(rank(pattern, reference), wanted, "{pattern} {reference}");
        }
    }

    #[test]
    fn stars_need_not_overlap() {
        assert!(glob("a*b*c", "aXbYbZc"));
        assert!(!glob("ab*ba", "aba"));
        assert!(glob("*", ""));
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let image = Image::new("ghcr.io/acme/*:v1", &["run", "it"]);
        let (key, value) = image.entry().unwrap();
        assert!(key.starts_with("ghcr-io-acme---v1."), "{key}");
        assert_ne!(key, Image::new("ghcr.io/acme/?:v1", &[]).entry().unwrap().0);
        let images = Images::new(Vec::new());
        let complaints = images.edit(Some(&json!({"data": {key: value}})));
        assert!(complaints.is_empty(), "{complaints:?}");
        assert_eq!(images.find("ghcr.io/acme/cart:v1"), Some(image));
    }

    #[test]
    fn the_edited_table_wins_and_bad_entries_are_named() {
        let images = Images::new(vec![
            Image::new("cart", &["old"]),
            Image::new("*", &["any"]),
        ]);
        assert_eq!(images.find("cart:v1").unwrap().command, ["old"]);
        let complaints = images.edit(Some(&json!({"data": {
            "a": "{\"image\": \"car*\", \"command\": [\"new\"]}", "b": "sleep 1"}})));
        assert!(complaints[0].starts_with("data.b: "), "{complaints:?}");
        assert_eq!(images.find("cart:v1").unwrap().command, ["new"]);
        assert_eq!(images.find("other").unwrap().command, ["any"]);
        images.edit(None);
        assert_eq!(images.find("cart:v1").unwrap().command, ["old"]);
    }
}
