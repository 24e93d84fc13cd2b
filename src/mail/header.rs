//! The header section: scanning once, and the few edits a submission server may make (RFC 6409 §8).
