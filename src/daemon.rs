//! Builds bottom-up, starts, reloads, drains: the only file that knows everyone.
