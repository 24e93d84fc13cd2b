//! End-of-data decoding and encoding (RFC 5321 §4.5.2): only CRLF.CRLF ends, nothing else.
