//! `gatepost sandbox`.
