//! How a message travels upstream: SMTP today; Graph and the Gmail API join here.
