//! Listeners: certificate chain and key from PEM files.
