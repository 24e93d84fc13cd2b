//! The strict line framer: CRLF ends a line, nothing else does, and every line is bounded.
