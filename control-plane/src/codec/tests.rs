//! What was written is read back, and no bytes make the reader panic.
