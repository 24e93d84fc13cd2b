//! The values of mail: addresses, envelopes, messages, replies, ids. No socket, file, task or clock.

mod address;
pub mod addressees;
pub mod author;
mod envelope;
pub mod header;
mod id;
pub mod lines;
mod message;
pub mod recipients;
mod status;

pub use address::{Address, AddressError, ReversePath};
pub use envelope::{BodyType, Envelope, Notify, Recipient, Ret};
pub use id::{AccountName, ParseQueueIdError, QueueId};
pub use message::{Body, BodyFile, Digest, Message};
pub use status::{EnhancedCode, Reply, sanitise};
