//! The examples run as their pages say.

use crate::Test;

pub(crate) const TESTS: &[Test] = &[];
