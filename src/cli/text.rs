//! How values are said to a person.

pub(super) use crate::admin::text::{
    done, happened, header_len, messages, relative, size, visible, word,
};
