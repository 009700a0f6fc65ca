//! What goes wrong elsewhere, as the API tells it: a code, a message, a hint.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use control_plane::state::Rejection;
use proto::json::{ErrorBody, ErrorCode};

use super::platform::ProposeError;

/// How long a client should wait before it tries again what may work later, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A request that is not done, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) ErrorBody);

impl Refusal {
    pub(super) fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self(ErrorBody::new(code, error))
    }

    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, error)
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, error)
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.hint(hint))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        if matches!(code, ErrorCode::LimitReached | ErrorCode::Unavailable) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if code == ErrorCode::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ErrorBody> for Refusal {
    fn from(body: ErrorBody) -> Self {
        Self(body)
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        let told = error.to_string();
        match error {
            ProposeError::Rejected(rejection) => rejection.into(),
            ProposeError::Unavailable(_) => {
                Self::new(ErrorCode::Unavailable, told).hint("`hearth get nodes` shows who is there")
            }
            ProposeError::DiskFull => {
                Self::new(ErrorCode::DiskFull, told).hint("make room there: `hearth image gc`, `hearth delete`")
            }
            ProposeError::Timeout => {
                Self::new(ErrorCode::Timeout, told).hint("look at what is deployed before you try again")
            }
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let told = rejection.to_string();
        match rejection {
            Rejection::NoFunction(_) => Self::not_found(told).hint("`hearth get functions` lists them"),
            Rejection::NoApp(_) | Rejection::NoNode(_) => Self::not_found(told),
            Rejection::NoRevision(revision) => {
                Self::not_found(told).hint(format!("`hearth versions {}` lists them", revision.function))
            }
            Rejection::ForeignFunction { .. } => {
                Self::new(ErrorCode::Conflict, told).hint("give one of them another name")
            }
            Rejection::DuplicateFunction(_) => Self::bad_request(told),
            Rejection::RouteTaken { .. } => Self::new(ErrorCode::Conflict, told).hint("give one of them another path"),
            Rejection::IndexChanged { .. } => {
                Self::new(ErrorCode::Conflict, told).hint("somebody else deployed it: plan again")
            }
            Rejection::RevisionFailed { .. } => Self::new(ErrorCode::RevisionFailed, told),
            Rejection::NotProved(revision) => Self::new(ErrorCode::Conflict, told)
                .hint(format!("`hearth versions {}` lists those that have", revision.function)),
            Rejection::Limit { .. } => Self::new(ErrorCode::LimitReached, told),
            Rejection::NodeDead(_) => Self::new(ErrorCode::Conflict, told)
                .hint("start its agent again, or take it out with `hearth cluster remove`"),
            Rejection::NodeDraining(node) => {
                Self::new(ErrorCode::Conflict, told).hint(format!("`hearth node undrain {node}` lets it stay"))
            }
            Rejection::OneVoter { .. } => {
                Self::new(ErrorCode::Conflict, told).hint("a third node makes it a cluster that survives the loss of one")
            }
            Rejection::BadLabel(_) => Self::bad_request(told),
            Rejection::LabelNotSet { .. } => Self::not_found(told)
                .hint("what a node's own configuration says is changed there, or overridden with KEY=VALUE"),
            Rejection::NotFresh => Self::new(ErrorCode::Conflict, told)
                .hint("a backup is restored where nothing was ever deployed: found a new cluster with an empty data directory"),
            Rejection::Unsound(_) | Rejection::BadScaling(_) => Self::bad_request(told),
            Rejection::LastNode(_) => Self::new(ErrorCode::Conflict, told),
            Rejection::NodeRemoved(_) => {
                Self::new(ErrorCode::Conflict, told).hint("empty its data directory and let it join anew")
            }
            Rejection::TooNew { oldest, .. } => {
                let refusal = Self::new(ErrorCode::Conflict, told);
                match oldest {
                    Some(node) => refusal.hint(format!("upgrade {node}, or start it without --feature-level")),
                    None => refusal.hint("try again when a node has registered"),
                }
            }
            // Commands of the API never lead to these; a node's or the leader's do.
            Rejection::NotInvited(_)
            | Rejection::StaleEpoch { .. }
            | Rejection::NodeTooOld { .. }
            | Rejection::NoRoom { .. }
            | Rejection::NoLabel { .. }
            | Rejection::InstanceExists(_)
            | Rejection::ForeignInstance { .. }
            | Rejection::NoSession { .. } => Self::new(ErrorCode::Conflict, told),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_code_has_its_status_and_exit_code() {
        let table: String = ErrorCode::ALL
            .iter()
            .map(|code| format!("{:22}{}  {}\n", code.as_str(), code.status(), code.exit_code()))
            .collect();
        expect![[r#"
            bad_request           400  2
            unauthenticated       401  5
            denied                403  5
            not_found             404  3
            method_not_allowed    405  2
            conflict              409  4
            too_large             413  2
            build_failed          422  1
            language_missing      422  1
            revision_failed       422  1
            verification_failed   422  9
            limit_reached         429  1
            internal              500  1
            function_failed       502  8
            instance_failed       502  8
            unavailable           503  7
            timeout               504  6
            disk_full             507  1
        "#]]
        .assert_eq(&table);
        let page = include_str!("../../../docs/reference/errors.md");
        for code in ErrorCode::ALL {
            let row = format!("| `{}` | {} | {} |", code.as_str(), code.status(), code.exit_code());
            assert!(page.contains(&row), "docs/reference/errors.md has no row {row}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str(), "the name is what is written");
        }
        assert_eq!(serde_json::from_str::<ErrorCode>("\"of a newer node\"").unwrap(), ErrorCode::Unknown);
    }
}
