//! What the code of an image is like: how long it takes, and how it fails.

use control_plane::model::{Digest, Runtime};

use crate::rng::{Rng, Span};

/// How instances of one image behave.
#[derive(Clone, Debug)]
pub(crate) struct Nature {
    pub(crate) runtime: Runtime,
    /// How long an instance takes to become ready.
    pub(crate) start: Span,
    pub(crate) init: Init,
    /// How long a call takes.
    pub(crate) call: Span,
    /// How long an instance takes to end once it is asked to.
    pub(crate) stop: Span,
}

/// How an instance begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// It becomes ready.
    Ready,
    /// Its code fails.
    Raises,
    /// Its process ends.
    Exits,
    /// It never says that it is ready.
    Hangs,
}

/// How long a process may take to end after SIGTERM before it is killed.
pub(crate) const STOP_GRACE: Span = Span::exactly(2000);

impl Nature {
    /// Returns the nature of code that does what it should.
    pub(crate) fn plain() -> Self {
        Self {
            runtime: Runtime::Python3,
            start: Span::exactly(50),
            init: Init::Ready,
            call: Span::exactly(10),
            stop: Span::exactly(5),
        }
    }

    /// Draws the nature of one image; `broken_permille` says how often it does not start, and `broken` how.
    pub(crate) fn draw(rng: &mut Rng, broken_permille: u32, broken: &[Init]) -> Self {
        let init = if rng.chance(broken_permille) { *rng.pick(broken) } else { Init::Ready };
        Self {
            runtime: if rng.chance(200) { Runtime::Provided } else { Runtime::Python3 },
            start: *rng.pick(&[Span::new(1, 60), Span::new(1, 60), Span::new(100, 800)]),
            init,
            call: *rng.pick(&[Span::new(1, 50), Span::new(1, 400), Span::new(500, 3000)]),
            stop: if rng.chance(150) { STOP_GRACE } else { Span::new(1, 20) },
        }
    }
}

/// Returns the digest of the nth image.
pub(crate) fn image(number: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Digest::from_bytes(bytes)
}
