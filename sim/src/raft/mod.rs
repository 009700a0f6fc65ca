//! A cluster of voters in the simulator.

mod runtime;
