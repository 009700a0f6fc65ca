//! What crosses a wire or reaches a disk: the generated messages of `v1/*.proto`.

/// Version 1 of every message; changes are additive only.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "the module is generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/hearth.v1.rs"));
}
