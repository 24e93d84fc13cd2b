//! Constant replies: what a peer reads never depends on what went wrong inside.

use std::borrow::Cow;

/// A reply of ours, ready for the wire: complete lines, each ending in CRLF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(pub Cow<'static, str>);
