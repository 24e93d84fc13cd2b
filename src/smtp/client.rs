//! Upstream side: the reply reader, EHLO capabilities, and what a transaction writes. Pure.
