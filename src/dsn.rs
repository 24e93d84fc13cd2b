//! Delivery status notifications (RFC 3464 in RFC 6522 multipart/report). Pure.
