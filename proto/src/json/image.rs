//! Images: building, pulling, capturing and sweeping them.

use serde::{Deserialize, Serialize};

use super::{ErrorBody, Runtime};

/// The part of a function's manifest that its build needs: `POST /v1/apps/NAME/functions/FN/build`.
///
/// It travels in the header [`BUILD_HEADER`](super::BUILD_HEADER) as base64. The body is a tar of the source: the contents of
/// the folder, or the one file. The answer is a stream of [`ImageEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// The contract the function keeps.
    pub runtime: Runtime,
    /// `module.function` for the runtimes that have one.
    #[serde(default)]
    pub handler: Option<String>,
    /// The argument vector, as in the manifest.
    #[serde(default)]
    pub command: Vec<String>,
    /// The file that lists dependencies, as a path inside the source.
    #[serde(default)]
    pub dependencies: Option<String>,
    /// What lies under the code: an image reference, the path of an OCI layout on the node, or the name of a captured base.
    #[serde(default)]
    pub base: Option<String>,
}

/// One line of the stream that answers a build, a pull or a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ImageEvent {
    /// How far a step came.
    Progress {
        /// What is being done, for people.
        step: String,
        /// How much of it is done, in bytes or pieces; zero when it begins.
        done: u64,
        /// How much it is in all, where that is known.
        total: Option<u64>,
    },
    /// A line that a tool wrote: pip, npm.
    Output {
        /// The line.
        text: String,
    },
    /// Last line: the image is stored, durably.
    Done {
        /// The digest of its manifest.
        image: String,
        /// Nothing had to be done: it was there already.
        reused: bool,
        /// The size of its blobs.
        size_bytes: u64,
    },
    /// Last line: there is no image.
    Error(ErrorBody),
}

/// An image in the node's store: `GET /v1/images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its manifest.
    pub digest: String,
    /// References and captured names that lead to it.
    pub names: Vec<String>,
    /// The size of its blobs.
    pub size_bytes: u64,
    /// The revisions that run it, as `function@number`.
    pub used_by: Vec<String>,
}

/// Fetches an image from a registry: `POST /v1/images/pull`. The answer is a stream of [`ImageEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// `registry/repository:tag` or `registry/repository@sha256:…`.
    pub reference: String,
}

/// Makes a base image of what the node's machine has: `POST /v1/images/capture`. The answer is a stream of [`ImageEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// `python3`, `nodejs`, or the absolute path of an executable.
    pub what: String,
    /// The name under which manifests refer to it; none means the language's or the executable's own name.
    #[serde(default)]
    pub name: Option<String>,
}

/// What a sweep deleted: `POST /v1/images/gc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// How many images that no revision runs and no name leads to.
    pub images: u64,
    /// How many blobs, those of deleted images included.
    pub blobs: u64,
    /// How much room that made on the disk.
    pub freed_bytes: u64,
}
