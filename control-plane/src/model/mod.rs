//! The nouns: plain data, valid by construction.

mod constraints;
mod digest;
mod features;
mod function;
mod id;
mod instance;
mod name;
mod node;
mod resources;
mod time;
mod trigger;

pub use constraints::{
    Constraints, ConstraintsError, LABEL_LENGTH_MAX, REQUIRED_MAX, Spread, UnknownSpread, ZONE_LABEL,
};
pub use digest::{Digest, DigestError};
pub use features::FeatureLevel;
pub use function::{
    CONCURRENCY_MAX, Concurrency, FunctionSpec, INSTANCES_MAX, Network, RevisionSpec, Runtime, Scaling, ScalingChange,
    ScalingError, UnknownRuntime,
};
pub use id::{Epoch, IdError, InstanceId, InvocationId, NodeId, RevisionId, RevisionNumber};
pub use instance::{Ending, InstanceFailure, Purpose};
pub use name::{AppName, FunctionName, NAME_LENGTH_MAX, NameError};
pub use node::{ARCH_LABEL, LABELS_SET_MAX, LabelError, Node, NodeSpec, check_labels, relabelled};
pub use resources::{Bytes, MilliCpu, Resources};
pub use time::Timestamp;
pub use trigger::{HttpTrigger, Method, PathPattern, Trigger, TriggerError};
