//! How many instances, and for how long.

mod keep_alive;

pub use keep_alive::{IDLE_DEFAULT, idle_limit};
