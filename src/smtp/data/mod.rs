//! Message data on the wire (RFC 5321 §4.5.2): only CRLF.CRLF ends it, nothing else does.

pub mod decode;
pub mod encode;
