//! Outgoing: dot-stuffing in pieces of any size; no bare CR or LF ever leaves. Pure.
