//! What a Node.js handler may rely on.
