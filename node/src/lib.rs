//! Acts.

pub mod contract;
