//! What the controller promises, as sentences.
