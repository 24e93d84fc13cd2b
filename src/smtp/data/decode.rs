//! Incoming: dot-unstuffing, end-of-data, the bare CR/LF rule. Pure, fed in any pieces.
