//! Everything in Hearth that acts: sockets, processes, files, clocks. The rooms in reading order.

pub mod clock;
pub mod contract;
pub mod sandbox;
