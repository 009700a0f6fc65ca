//! What goes first where processors are short: a node before what it runs.
//!
//! Voters that are not run for a quarter of a second are taken for dead by the others, and calls wait for the gateway whatever
//! their functions do. So a node runs before functions that keep every processor busy; what it starts for them does not.
//!
//! Niceness counts among the processes and cgroups of one cgroup. A service manager that gives the node a cgroup of its own
//! decides by that one's weight instead (systemd: `CPUWeight=`).

/// The niceness of a node: it gets nine times what a usual process beside it gets, where both are short of it.
const NODE: i32 = -10;

/// The niceness of everything else.
const USUAL: i32 = 0;

/// Lets this process go first, as far as it may. To be called before anything starts a thread: each has what it inherits.
pub(crate) fn go_first() {
    // Who may not goes on as everybody does.
    let _ = rustix::process::setpriority_process(None, NODE);
}

/// Lets this process go with all others.
pub(crate) fn go_along() {
    let _ = rustix::process::setpriority_process(None, USUAL);
}
