//! Connecting: addresses of a name tried one after another with a head start (RFC 8305), then TLS.
