//! The documents of an OCI image: index, manifest and config, as far as Hearth needs them.
//!
//! Docker's documents of version 2 have the same shape under other media types.

use std::collections::BTreeMap;

use control_plane::model::Digest;
use serde::{Deserialize, Deserializer, Serialize};

use super::pull::PullError;

/// The media types of documents that we ask a registry for.
pub(super) const ACCEPTED: &str = concat!(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
);

/// The largest index, manifest or config, in bytes.
pub(super) const DOCUMENT_MAX: u64 = 4 << 20;

/// The most layers of an image; overlays of the kernel have room for a few more of ours.
pub(super) const LAYERS_MAX: usize = 127;

/// The annotation that holds the tag of an image in a layout.
pub(super) const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

const MANIFESTS: [&str; 2] = [MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];

const CONFIGS: [&str; 2] = [CONFIG, "application/vnd.docker.container.image.v1+json"];

/// What the media types of layers begin with.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// What may follow: how a layer is compressed.
const COMPRESSIONS: [&str; 4] = ["", "+gzip", ".gzip", "+zstd"];

/// The media type of an image manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The media type of an image config.
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The media type of a layer that is not compressed.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A blob and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

/// Several images under one name, each for a platform of its own.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default, deserialize_with = "nothing_is_empty")]
    pub(super) manifests: Vec<Descriptor>,
}

/// What a registry or a layout has under a digest.
#[derive(Clone, Debug)]
pub(super) enum Document {
    Index(Index),
    Image(Manifest),
}

impl Document {
    /// Reads an index or a manifest; `kind` is the media type that whoever sent it says it has.
    pub(super) fn parse(bytes: &[u8], kind: Option<&str>) -> Result<Self, PullError> {
        /// What is looked at before anything else.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u32>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let wrong =
            |error: serde_json::Error| PullError::Invalid { reason: format!("its manifest is malformed: {error}") };
        let invalid = |reason: String| PullError::Invalid { reason };
        let shape: Shape = serde_json::from_slice(bytes).map_err(wrong)?;
        if shape.schema_version == Some(1) {
            return Err(invalid("its manifest is of Docker's version 1, which is read no more".to_owned()));
        }
        // One that is both is read as the one by some and as the other by others.
        if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
            return Err(invalid("its manifest is an index and a manifest at once".to_owned()));
        }
        let kind = shape.media_type.as_deref().or(kind).unwrap_or_default();
        let is_index = INDEXES.contains(&kind) || !MANIFESTS.contains(&kind) && shape.manifests.is_some();
        if is_index {
            return Ok(Self::Index(serde_json::from_slice(bytes).map_err(wrong)?));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(wrong)?;
        manifest.check()?;
        Ok(Self::Image(manifest))
    }
}

impl Index {
    /// Returns the image for this machine.
    pub(super) fn choose(&self) -> Result<&Descriptor, PullError> {
        let fits = |part: &&Descriptor| {
            part.platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
        };
        // A variant asks for more than every machine of the architecture has, but for arm64's only one.
        let is_usual = |part: &&Descriptor| {
            let variant = part.platform.as_ref().and_then(|platform| platform.variant.as_deref());
            matches!(variant, None | Some("" | "v1" | "v8"))
        };
        if let Some(found) = self.manifests.iter().filter(fits).find(is_usual) {
            return Ok(found);
        }
        if let [only] = &self.manifests[..]
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let others = self.manifests.iter().filter_map(|part| part.platform.as_ref()).map(|platform| {
            let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
            format!("{}/{}{variant}", platform.os, platform.architecture)
        });
        Err(PullError::Platform { wanted: format!("linux/{}", architecture()), others: others.collect() })
    }
}

impl Manifest {
    fn check(&self) -> Result<(), PullError> {
        let kind = &self.config.media_type;
        if !CONFIGS.contains(&kind.as_str()) {
            return Err(PullError::Invalid { reason: format!("it is no image to run: its config is a {kind}") });
        }
        if self.layers.len() > LAYERS_MAX {
            return Err(PullError::Limit { what: "layers", limit: u64::try_from(LAYERS_MAX).unwrap_or(u64::MAX) });
        }
        let is_layer = |kind: &str| {
            LAYERS.iter().any(|base| kind.strip_prefix(base).is_some_and(|rest| COMPRESSIONS.contains(&rest)))
        };
        match self.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            Some(odd) => Err(PullError::Invalid { reason: format!("one of its layers is a {}", odd.media_type) }),
            None => Ok(()),
        }
    }
}

/// Takes `null` for an empty list: Go writes one for the other.
fn nothing_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Takes `null` for what is there when nothing is said.
fn nothing_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Descriptor {
    pub(super) fn new(media_type: &str, digest: &Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest: digest.to_string(), size, platform: None, annotations: None }
    }
}

/// An image: its config and its layers, lowest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    #[serde(default, deserialize_with = "nothing_is_empty")]
    pub(super) layers: Vec<Descriptor>,
}

/// What an image is for, and what it runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default, deserialize_with = "nothing_is_default")]
    pub(super) config: Execution,
    pub(super) rootfs: RootFs,
}

/// What a container of an image runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Execution {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
}

/// The layers by the digest of what they are unpacked from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RootFs {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "nothing_is_empty")]
    pub(super) diff_ids: Vec<String>,
}

/// Returns this machine's architecture as OCI names it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
