//! Tests of the whole: texts in, configurations and problems out.
