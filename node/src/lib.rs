//! Acts.

pub mod clock;
pub mod config;
pub mod contract;
pub mod data_dir;
pub mod manifest;
