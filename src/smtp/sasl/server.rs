//! Server side: what a client sends after AUTH, decoded strictly. Pure.
