//! TLS: one stack (rustls on aws-lc-rs), platform roots plus a CA file where configured.
