//! Upstream: the certificate is always verified; platform roots, plus a CA file where configured.
