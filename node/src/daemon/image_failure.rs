//! Why there is no image, as the API tells it: a code, everything that caused it, and what helps.

use std::io;

use control_plane::model::Digest;
use proto::json::{ErrorBody, ErrorCode};

use crate::error_chain;
use crate::image::{BuildError, CaptureError, PullError, RootfsError, SweepError, UnpackError};

pub(super) fn failed(error: String, hint: Option<&str>) -> ErrorBody {
    told(ErrorCode::BuildFailed, error, hint)
}

fn told(code: ErrorCode, error: String, hint: Option<&str>) -> ErrorBody {
    ErrorBody { error, hint: hint.map(str::to_owned), code }
}

/// Tells why a build failed.
pub(super) fn of_build(error: &BuildError) -> ErrorBody {
    let text = error_chain::text(error);
    match error {
        BuildError::Capture(CaptureError::LanguageMissing { hint, .. }) => {
            told(ErrorCode::LanguageMissing, text, Some(hint))
        }
        BuildError::Dependencies(_) => failed(text, Some("the reason is the tool's own; check names and versions")),
        BuildError::NoResolver(_) => {
            failed(text, Some("name base = \"python3\" or \"nodejs\", or ship what it needs with the source"))
        }
        BuildError::NoBase(_) => {
            failed(text, Some("`hearth image ls` shows what there is; an image of a registry is REGISTRY/NAME:TAG"))
        }
        BuildError::Reference(error) => told(ErrorCode::BadRequest, text, Some(&error.hint)),
        BuildError::Pull(error) => of_pull(error),
        BuildError::Store(error) => of_store(text, error),
        BuildError::Missing { .. }
        | BuildError::TooLarge { .. }
        | BuildError::ListTooLarge { .. }
        | BuildError::Capture(_)
        | BuildError::NoCommand(_)
        | BuildError::Base(_) => failed(text, None),
    }
}

/// Tells why an image did not come.
pub(super) fn of_pull(error: &PullError) -> ErrorBody {
    let text = error_chain::text(error);
    match error {
        PullError::Unreachable { host, .. } => {
            let hint = format!(
                "is it up, and does it speak TLS? One that does not is written http://{host}/… or listed in build.insecure-registries"
            );
            told(ErrorCode::Unavailable, text, Some(&hint))
        }
        PullError::TimedOut { .. } | PullError::Busy { .. } => {
            told(ErrorCode::Unavailable, text, Some("try again later"))
        }
        PullError::Peers { .. } | PullError::PeersSlow { .. } => {
            told(ErrorCode::Unavailable, text, Some("is a node up that has the image?"))
        }
        PullError::Answer { .. } => told(ErrorCode::Unavailable, text, Some("is there a registry at that address?")),
        PullError::NotFound { .. } => told(ErrorCode::NotFound, text, Some("check the repository and the tag")),
        PullError::Denied { .. } => {
            let hint = "credentials come from the file that build.registry-auth-file names, in the form of Docker's config.json";
            told(ErrorCode::Denied, text, Some(hint))
        }
        PullError::Corrupt { .. } => told(ErrorCode::VerificationFailed, text, Some("nothing of it was kept")),
        PullError::Layer(RootfsError::Layer { source: UnpackError::Digest { .. }, .. }) => {
            told(ErrorCode::VerificationFailed, text, Some("nothing of it was kept"))
        }
        PullError::Limit { .. } | PullError::Layer(RootfsError::Layer { source: UnpackError::Limit { .. }, .. }) => {
            told(ErrorCode::TooLarge, text, None)
        }
        PullError::Platform { .. } | PullError::Invalid { .. } | PullError::Layer(_) => failed(text, None),
        PullError::Store(error) => of_store(text, error),
    }
}

/// Tells why an image that somebody may have is not taken along into a backup.
pub(super) fn of_saving(image: &Digest, error: &PullError) -> ErrorBody {
    let ErrorBody { error, hint, code } = of_pull(error);
    // Nothing was to be built.
    let code = if code == ErrorCode::BuildFailed { ErrorCode::Internal } else { code };
    ErrorBody { error: format!("image {image} cannot be taken along: {error}"), hint, code }
}

/// Tells why nothing was swept.
pub(super) fn of_sweep(error: &SweepError) -> ErrorBody {
    let text = error_chain::text(error);
    match error {
        SweepError::Busy => told(ErrorCode::Conflict, text, Some("try again when it has ended")),
        SweepError::Store(_) => told(ErrorCode::Internal, text, None),
    }
}

fn of_store(text: String, error: &io::Error) -> ErrorBody {
    if error.kind() == io::ErrorKind::StorageFull {
        return told(ErrorCode::DiskFull, text, Some("make room: hearth image gc"));
    }
    failed(text, None)
}
