//! What the supervisor promises, as sentences.
