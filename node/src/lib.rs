//! Acts.

pub mod clock;
pub mod contract;
pub mod gateway;
