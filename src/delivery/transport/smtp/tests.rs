//! Tests of the upstream session live in `tests/it`, against real servers.
