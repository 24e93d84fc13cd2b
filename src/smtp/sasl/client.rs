//! Client side: XOAUTH2, OAUTHBEARER (RFC 7628), PLAIN (RFC 4616), LOGIN. Pure.
//!
//! One of the two places where an access token is exposed (the other is an HTTP request). What is
//! made here is itself a [`Secret`]: base64 hides nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{secret::Secret, smtp::client::sanitise};

/// A user name, token or password that cannot stand in the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a control character in the user name, token or password")]
pub struct CredentialError;

/// The one message of XOAUTH2, in base64.
///
/// # Errors
/// When user or token holds a control character: `^A` separates the fields.
pub fn xoauth2(user: &str, token: &Secret) -> Result<Secret, CredentialError> {
    let (user, token) = (clean(user)?, clean(token.expose())?);
    encode(&[b"user=", user, b"\x01auth=Bearer ", token, b"\x01\x01"])
}

/// The one message of OAUTHBEARER with its GS2 header, in base64 (RFC 7628 §3.1).
///
/// # Errors
/// When user, host or token holds a control character.
pub fn oauthbearer(
    user: &str,
    host: &str,
    port: u16,
    token: &Secret,
) -> Result<Secret, CredentialError> {
    // RFC 5801 §4: a comma or an equals sign in the authzid is escaped.
    let user = user.replace('=', "=3D").replace(',', "=2C");
    let (user, host, token) = (clean(&user)?, clean(host)?, clean(token.expose())?);
    let port = port.to_string();
    encode(&[
        b"n,a=",
        user,
        b",\x01host=",
        host,
        b"\x01port=",
        port.as_bytes(),
        b"\x01auth=Bearer ",
        token,
        b"\x01\x01",
    ])
}

/// The one message of PLAIN with an empty authzid, in base64.
///
/// # Errors
/// When user or password holds a NUL or another control character.
pub fn plain(user: &str, password: &Secret) -> Result<Secret, CredentialError> {
    let (user, password) = (clean(user)?, clean(password.expose())?);
    encode(&[b"\0", user, b"\0", password])
}

/// The two messages of LOGIN, in base64.
///
/// # Errors
/// When user or password holds a control character.
pub fn login(user: &str, password: &Secret) -> Result<[Secret; 2], CredentialError> {
    let (user, password) = (clean(user)?, clean(password.expose())?);
    Ok([encode(&[user])?, encode(&[password])?])
}

/// What answers an error challenge of XOAUTH2: an empty line.
pub const XOAUTH2_AFTER_ERROR: &str = "";
/// What answers an error challenge of OAUTHBEARER: `^A` (RFC 7628 §3.2.3).
pub const OAUTHBEARER_AFTER_ERROR: &str = "AQ==";

/// The error a server explains in a 334 challenge, fit to be shown: decoded, without control
/// characters, bounded. `None`: nothing readable.
#[must_use]
pub fn challenge(text: &str) -> Option<String> {
    let octets = STANDARD.decode(text.trim()).ok()?;
    let text = sanitise(&String::from_utf8_lossy(&octets));
    let text: String = text.trim().chars().take(CHALLENGE_LEN_MAX).collect();
    (!text.is_empty()).then_some(text)
}

fn clean(text: &str) -> Result<&[u8], CredentialError> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(CredentialError);
    }
    Ok(text.as_bytes())
}

fn encode(parts: &[&[u8]]) -> Result<Secret, CredentialError> {
    let octets = Zeroizing::new(parts.concat());
    // Sized first: a string that grew would leave halves of the token in freed memory.
    let len = base64::encoded_len(octets.len(), true).ok_or(CredentialError)?;
    let mut text = String::with_capacity(len);
    STANDARD.encode_string(octets.as_slice(), &mut text);
    Ok(Secret::new(text))
}

/// Google's and Dovecot's are under 200.
const CHALLENGE_LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: &Result<Secret, CredentialError>) -> &str {
        secret.as_ref().expect("encodable").expose()
    }

    #[test]
    fn the_vectors_of_the_providers_come_out() {
        // Microsoft's page, Google's page, RFC 7628 §4.1 with Google's token.
        let microsoft = xoauth2(
            "test@contoso.onmicrosoft.com",
            &Secret::new("EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA"),
        );
        assert_eq!(
            shown(&microsoft),
            "dXNlcj10ZXN0QGNvbnRvc28ub25taWNyb3NvZnQuY29tAWF1dGg9QmVhcmVyIEV3QkFBbDNCQUFVRkZwVUFvN0ozVmUwYmpMQldaV0NjbFJDM0VvQUEBAQ=="
        );
        let google = xoauth2(
            "someuser@example.com",
            &Secret::new("ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"),
        );
        assert_eq!(
            shown(&google),
            "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
        );
        let bearer = oauthbearer(
            "user@example.com",
            "server.example.com",
            587,
            &Secret::new("vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="),
        );
        assert_eq!(
            shown(&bearer),
            "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9NTg3AWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2c9PQEB"
        );
        assert_eq!(
            shown(&plain("user", &Secret::new("pass"))),
            "AHVzZXIAcGFzcw=="
        );
        let pair = login("user", &Secret::new("pass")).expect("encodable");
        assert_eq!(
            pair.each_ref().map(Secret::expose),
            ["dXNlcg==", "cGFzcw=="]
        );
    }

    #[test]
    fn an_authzid_is_escaped() {
        let text = oauthbearer("a,b=c@d", "h", 25, &Secret::new("t"));
        let octets = STANDARD.decode(shown(&text)).expect("base64");
        assert!(
            octets.starts_with(b"n,a=a=2Cb=3Dc@d,\x01host=h\x01port=25\x01auth=Bearer t\x01\x01")
        );
    }

    #[test]
    fn nothing_can_be_smuggled_into_a_field() {
        for bad in ["a\x01auth=Bearer x", "a\0b", "a\r\nb"] {
            let secret = Secret::new(bad);
            assert_eq!(xoauth2(bad, &Secret::new("t")), Err(CredentialError));
            assert_eq!(xoauth2("u", &secret), Err(CredentialError));
            assert_eq!(oauthbearer("u", "h", 1, &secret), Err(CredentialError));
            assert_eq!(plain("u", &secret), Err(CredentialError));
            assert_eq!(login(bad, &secret), Err(CredentialError));
        }
    }

    #[test]
    fn an_error_challenge_is_decoded_for_people() {
        let google = "eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmdvb2dsZS5jb20vIn0K";
        assert_eq!(
            challenge(google).as_deref(),
            Some(r#"{"status":"401","schemes":"bearer mac","scope":"https://mail.google.com/"}"#)
        );
        assert_eq!(challenge(""), None);
        assert_eq!(challenge("not base64"), None);
        let long = STANDARD.encode("x".repeat(5000));
        assert_eq!(challenge(&long).map(|t| t.len()), Some(CHALLENGE_LEN_MAX));
    }
}
