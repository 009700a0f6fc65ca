//! What crosses a wire, and nothing that decides or acts.

pub mod json;
