//! Upstream side: the reply reader, EHLO capabilities, and what a transaction writes. Pure.
//!
//! A server is not believed: a reply is bounded in octets and lines, its control characters are
//! dropped, and what is no reply is an error that ends the session. Commands are made from typed
//! values alone, and no control character passes into one.

pub use crate::mail::sanitise;
use smtp_proto::{
    AUTH_LOGIN, AUTH_OAUTHBEARER, AUTH_PLAIN, AUTH_XOAUTH2, EXT_8BIT_MIME, EXT_DSN, EXT_PIPELINING,
    EXT_SIZE, EXT_SMTP_UTF8, EXT_START_TLS, EhloResponse,
};

use crate::mail::{BodyType, EnhancedCode, Notify, Recipient, Reply, Ret, ReversePath};

/// One reply as it came: its code and its lines, without codes and control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyLines {
    /// Three digits, 200 to 599.
    pub code: u16,
    text: String,
}

impl ReplyLines {
    /// The lines, without the code.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// The text of the first line.
    #[must_use]
    pub fn first(&self) -> &str {
        self.lines().next().unwrap_or_default()
    }

    /// The reply as a value: the enhanced code taken out of every line, the lines joined.
    #[must_use]
    pub fn into_reply(self) -> Reply {
        let class = self.code / 100;
        let mut enhanced = None;
        let mut text = String::with_capacity(self.text.len());
        for line in self.text.split('\n') {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let code = EnhancedCode::parse(word).filter(|code| code.0 == class);
            let line = if code.is_some() { rest } else { line }.trim();
            enhanced = enhanced.or(code);
            if !text.is_empty() && !line.is_empty() {
                text.push(' ');
            }
            text.push_str(line);
        }
        Reply {
            code: self.code,
            enhanced,
            text,
        }
    }
}

/// Why what a server sent is no reply. The session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line without a code from 200 to 599 and a space or hyphen: a server of another kind, or
    /// somebody in between.
    #[error("not an SMTP reply")]
    Garbage,
    /// Lines of one reply say different things.
    #[error("the lines of one reply carry different codes")]
    Codes,
    /// More octets or lines than any honest server sends.
    #[error("reply longer than {REPLY_LEN_MAX} octets or {REPLY_LINES_MAX} lines")]
    TooLong,
}

/// Takes octets in any pieces and gives replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    /// Octets of `buffer` that were taken as lines.
    taken: usize,
    /// The code of the reply being read; zero: none was begun.
    code: u16,
    text: String,
    lines: usize,
}

impl ReplyReader {
    /// Takes octets that arrived. Call [`ReplyReader::reply`] until it has none before reading on:
    /// that bounds the memory.
    pub fn feed(&mut self, octets: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(octets);
    }

    /// The next complete reply, if it has arrived.
    ///
    /// # Errors
    /// [`ReplyError`]; nothing after it means anything.
    pub fn reply(&mut self) -> Result<Option<ReplyLines>, ReplyError> {
        loop {
            let unread = self.buffer.get(self.taken..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', unread) else {
                let too_long = unread.len() + self.text.len() > REPLY_LEN_MAX;
                return if too_long {
                    Err(ReplyError::TooLong)
                } else {
                    Ok(None)
                };
            };
            let line = unread.get(..end).unwrap_or_default();
            let (code, last, text) = split(line)?;
            if self.text.len() + text.len() > REPLY_LEN_MAX || self.lines == REPLY_LINES_MAX {
                return Err(ReplyError::TooLong);
            }
            // A server that changes its mind within the class means the same; one that changes the
            // class cannot be understood.
            if self.code != 0 && self.code / 100 != code / 100 {
                return Err(ReplyError::Codes);
            }
            if self.lines > 0 {
                self.text.push('\n');
            }
            push_clean(&mut self.text, text);
            self.code = code;
            self.lines += 1;
            self.taken += end + 1;
            if last {
                self.lines = 0;
                return Ok(Some(ReplyLines {
                    code: std::mem::take(&mut self.code),
                    text: std::mem::take(&mut self.text),
                }));
            }
        }
    }

    /// Octets taken in and not yet given out as a reply.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.buffer.len() - self.taken + self.text.len()
    }

    /// Whether nothing is left over: after the 220 to STARTTLS anything else is an attack
    /// (RFC 3207 §6, response injection).
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.taken == self.buffer.len() && self.code == 0
    }
}

/// Code, whether the line is the last, and text of a reply line without its LF.
fn split(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
        return Err(ReplyError::Garbage);
    };
    let digit = |d: &u8| u16::from(d - b'0');
    let code = digit(a) * 100 + digit(b) * 10 + digit(c);
    match rest {
        [] => Ok((code, true, rest)),
        [b' ', text @ ..] => Ok((code, true, text)),
        [b'-', text @ ..] => Ok((code, false, text)),
        _ => Err(ReplyError::Garbage),
    }
}

/// Appends text a server sent, without what could end or forge a line of ours.
fn push_clean(out: &mut String, text: &[u8]) {
    if text.iter().all(|b| (0x20..0x7f).contains(b)) {
        out.push_str(std::str::from_utf8(text).unwrap_or_default());
    } else {
        out.push_str(&sanitise(&String::from_utf8_lossy(text)));
    }
}

/// What a server says it can do. The default is what HELO implies: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    bits: u32,
    auth: u64,
    size: u64,
}

impl Capabilities {
    /// Reads an EHLO reply (RFC 5321 §4.1.1.1); keywords are case-insensitive, and a line that is
    /// not understood is a capability we do not use.
    ///
    /// Each line is given to `smtp-proto` alone, so that one it refuses does not hide the others.
    #[must_use]
    pub fn from_ehlo(reply: &ReplyLines) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            // Servers that remember 1998 say `AUTH=LOGIN`; the mechanisms are the same.
            let line = match line.get(..5) {
                Some(start) if start.eq_ignore_ascii_case("AUTH=") => {
                    format!("AUTH {}", line.get(5..).unwrap_or_default())
                }
                _ => line.to_owned(),
            };
            let text = format!("250-x\r\n250 {}\r\n", line.trim());
            if let Ok(parsed) = EhloResponse::parse(&mut text.as_bytes().iter()) {
                found.bits |= parsed.capabilities;
                found.auth |= parsed.auth_mechanisms;
                found.size = found.size.max(u64::try_from(parsed.size).unwrap_or(0));
            }
        }
        found
    }

    /// RFC 2920.
    #[must_use]
    pub fn pipelining(&self) -> bool {
        self.bits & EXT_PIPELINING != 0
    }

    /// RFC 3207.
    #[must_use]
    pub fn starttls(&self) -> bool {
        self.bits & EXT_START_TLS != 0
    }

    /// RFC 6152.
    #[must_use]
    pub fn eight_bit_mime(&self) -> bool {
        self.bits & EXT_8BIT_MIME != 0
    }

    /// RFC 6531.
    #[must_use]
    pub fn smtputf8(&self) -> bool {
        self.bits & EXT_SMTP_UTF8 != 0
    }

    /// RFC 3461.
    #[must_use]
    pub fn dsn(&self) -> bool {
        self.bits & EXT_DSN != 0
    }

    /// The largest message taken, in octets; `None`: not said (RFC 1870).
    #[must_use]
    pub fn size_max(&self) -> Option<u64> {
        (self.bits & EXT_SIZE != 0 && self.size > 0).then_some(self.size)
    }

    /// Whether `mechanism` is offered (RFC 4954).
    #[must_use]
    pub fn offers(&self, mechanism: Mechanism) -> bool {
        let bit = match mechanism {
            Mechanism::Xoauth2 => AUTH_XOAUTH2,
            Mechanism::OauthBearer => AUTH_OAUTHBEARER,
            Mechanism::Plain => AUTH_PLAIN,
            Mechanism::Login => AUTH_LOGIN,
        };
        self.auth & bit != 0
    }
}

/// A SASL mechanism we can speak upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Google's and Microsoft's bearer exchange.
    Xoauth2,
    /// RFC 7628.
    OauthBearer,
    /// RFC 4616.
    Plain,
    /// User name and password, each prompted for.
    Login,
}

impl Mechanism {
    /// As written after AUTH.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xoauth2 => "XOAUTH2",
            Self::OauthBearer => "OAUTHBEARER",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

/// What MAIL says.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// The reverse-path.
    pub reverse_path: &'a ReversePath,
    /// Octets of the message (RFC 1870 §5).
    pub size: u64,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`, in xtext.
    pub envid: Option<&'a str>,
}

/// Why a command cannot be said to this server. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value holds a control character: it would become another command.
    #[error("a control character in a command argument")]
    Control,
    /// An address is not ASCII and the server has no SMTPUTF8.
    #[error("the address needs SMTPUTF8, which the server does not offer")]
    Smtputf8,
}

impl Mail<'_> {
    /// Appends `MAIL FROM:<..>` with the parameters that the server knows.
    ///
    /// # Errors
    /// [`CommandError`]; `out` is then as it was.
    pub fn encode(&self, server: &Capabilities, out: &mut Vec<u8>) -> Result<(), CommandError> {
        let mut line = Line::begin(out, "MAIL FROM:<");
        if let Some(address) = self.reverse_path.address() {
            line.address(address, server)?;
        }
        line.literal(">");
        if server.bits & EXT_SIZE != 0 {
            line.literal(" SIZE=");
            line.argument(&self.size.to_string())?;
        }
        if server.eight_bit_mime() && self.body == BodyType::EightBitMime {
            line.literal(" BODY=8BITMIME");
        }
        if server.smtputf8() && self.smtputf8 {
            line.literal(" SMTPUTF8");
        }
        if server.dsn() {
            match self.ret {
                Some(Ret::Full) => line.literal(" RET=FULL"),
                Some(Ret::Headers) => line.literal(" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = self.envid {
                line.literal(" ENVID=");
                line.argument(envid)?;
            }
        }
        line.end();
        Ok(())
    }
}

/// Appends `RCPT TO:<..>` with the parameters that the server knows.
///
/// # Errors
/// [`CommandError`]; `out` is then as it was.
pub fn rcpt(
    recipient: &Recipient,
    server: &Capabilities,
    out: &mut Vec<u8>,
) -> Result<(), CommandError> {
    let mut line = Line::begin(out, "RCPT TO:<");
    line.address(&recipient.address, server)?;
    line.literal(">");
    if server.dsn() {
        match recipient.notify {
            Notify::Unspecified => {}
            Notify::Never => line.literal(" NOTIFY=NEVER"),
            Notify::On {
                success,
                failure,
                delay,
            } => line.notify([(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")]),
        }
        if let Some(orcpt) = &recipient.orcpt {
            line.literal(" ORCPT=");
            line.argument(orcpt)?;
        }
    }
    line.end();
    Ok(())
}

/// Appends a command of one word and, perhaps, one argument.
///
/// # Errors
/// [`CommandError::Control`]; `out` is then as it was.
pub fn command(verb: &str, argument: &str, out: &mut Vec<u8>) -> Result<(), CommandError> {
    let mut line = Line::begin(out, verb);
    if !argument.is_empty() {
        line.literal(" ");
        line.argument(argument)?;
    }
    line.end();
    Ok(())
}

/// A command being written. Unless ended, the buffer goes back to what it was: half a command is
/// never sent.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    ended: bool,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>, verb: &str) -> Self {
        let start = out.len();
        out.extend_from_slice(verb.as_bytes());
        Self {
            out,
            start,
            ended: false,
        }
    }

    fn literal(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A parameter value or host name: no control character, no space.
    fn argument(&mut self, text: &str) -> Result<(), CommandError> {
        if text.bytes().any(|b| b <= 0x20 || b == 0x7f) {
            return Err(CommandError::Control);
        }
        self.literal(text);
        Ok(())
    }

    fn address(
        &mut self,
        address: &crate::mail::Address,
        server: &Capabilities,
    ) -> Result<(), CommandError> {
        if !address.is_ascii() && !server.smtputf8() {
            return Err(CommandError::Smtputf8);
        }
        let parts = [address.local(), address.domain()];
        if parts
            .iter()
            .any(|p| p.bytes().any(|b| b < 0x20 || b == 0x7f))
        {
            return Err(CommandError::Control);
        }
        self.literal(address.local());
        self.literal("@");
        self.literal(address.domain());
        Ok(())
    }

    fn notify(&mut self, events: [(bool, &str); 3]) {
        let mut separator = " NOTIFY=";
        for (wanted, name) in events {
            if wanted {
                self.literal(separator);
                self.literal(name);
                separator = ",";
            }
        }
    }

    fn end(mut self) {
        self.literal("\r\n");
        self.ended = true;
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.out.truncate(self.start);
        }
    }
}

/// RFC 5321 says 512 a line; no honest reply comes near this.
pub const REPLY_LEN_MAX: usize = 64 * 1024;
/// Exchange's EHLO has 12 lines, the longest seen anywhere has 30.
pub const REPLY_LINES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Address;

    fn read(octets: &[u8], piece: usize) -> Vec<Result<ReplyLines, ReplyError>> {
        let mut reader = ReplyReader::default();
        let mut found = Vec::new();
        for piece in octets.chunks(piece) {
            reader.feed(piece);
            loop {
                match reader.reply() {
                    Ok(Some(reply)) => found.push(Ok(reply)),
                    Ok(None) => break,
                    Err(error) => {
                        found.push(Err(error));
                        return found;
                    }
                }
            }
        }
        found
    }

    fn one(text: &str) -> Reply {
        read(text.as_bytes(), 4096)
            .remove(0)
            .expect("a reply")
            .into_reply()
    }

    #[test]
    fn replies_read_the_same_in_any_pieces() {
        let wire =
            b"250-mail.example\r\n250-SIZE 10\r\n250 OK\r\n354 go\r\n250\r\n550 5.7.708 no\n";
        let whole = read(wire, wire.len());
        assert_eq!(whole.len(), 4);
        for piece in 1..wire.len() {
            assert_eq!(read(wire, piece), whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_enhanced_code_is_kept_whole_and_taken_from_every_line() {
        let cases = [
            (
                "550 5.7.708 Access denied\r\n",
                550,
                Some((5, 7, 708)),
                "Access denied",
            ),
            ("451 4.7.500 busy\r\n", 451, Some((4, 7, 500)), "busy"),
            (
                "535-5.7.8 Username and Password\r\n535 5.7.8 not accepted\r\n",
                535,
                Some((5, 7, 8)),
                "Username and Password not accepted",
            ),
            // A code of another class is text, not a code (RFC 3463 §2).
            ("250 5.0.0 odd\r\n", 250, None, "5.0.0 odd"),
            ("250 OK\r\n", 250, None, "OK"),
            ("250 2.0.0\r\n", 250, Some((2, 0, 0)), ""),
            ("421\r\n", 421, None, ""),
        ];
        for (wire, code, enhanced, text) in cases {
            let enhanced = enhanced.map(|(a, b, c)| EnhancedCode(a, b, c));
            assert_eq!(one(wire), Reply::new(code, enhanced, text), "{wire}");
        }
    }

    #[test]
    fn control_characters_never_leave_the_reader() {
        assert_eq!(one("550 a\x00b\x1b[31mc\td\re\r\n").text, "ab[31mc de");
        assert_eq!(
            read(b"550 caf\xe9\r\n", 1)
                .remove(0)
                .map(ReplyLines::into_reply),
            Ok(Reply::new(550, None, "caf\u{fffd}"))
        );
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_bounded() {
        let long = [b"250 ".as_slice(), &vec![b'a'; REPLY_LEN_MAX + 4096]].concat();
        let endless = b"250-a\r\n".repeat(REPLY_LINES_MAX + 1);
        let wide = [b"250-".as_slice(), &vec![b'a'; 40_000], b"\r\n"]
            .concat()
            .repeat(2);
        for (wire, error) in [
            (
                b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
                ReplyError::Garbage,
            ),
            (b"\r\n", ReplyError::Garbage),
            (b"25\r\n", ReplyError::Garbage),
            (b"150 hm\r\n", ReplyError::Garbage),
            (b"650 hm\r\n", ReplyError::Garbage),
            (b"250_ok\r\n", ReplyError::Garbage),
            (b"250-ok\r\n550 no\r\n", ReplyError::Codes),
            (&long, ReplyError::TooLong),
            (&endless, ReplyError::TooLong),
            (&wide, ReplyError::TooLong),
        ] {
            let found = read(wire, 2048);
            assert_eq!(
                found,
                [Err(error)],
                "{}",
                String::from_utf8_lossy(&wire[..wire.len().min(40)])
            );
        }
    }

    /// Takes out every whole reply, each of which must be clean.
    fn take_all(reader: &mut ReplyReader) -> Result<(), ReplyError> {
        while let Some(reply) = reader.reply()? {
            assert!(reply.lines().all(|line| !line.contains(char::is_control)));
            assert!((200..600).contains(&reply.into_reply().code));
        }
        Ok(())
    }

    /// Whatever a server writes, in whatever pieces: no panic, and no more kept than a reply may have.
    #[test]
    fn noise_is_bounded_and_never_more_than_an_error() {
        const ALPHABET: &[u8] = b"2345 -0\r\n.a\0\xff\x1b";
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut chance = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
        };
        for _ in 0..1_000_000 {
            let mut reader = ReplyReader::default();
            let mut wire = b"250-".to_vec();
            wire.truncate(chance(5));
            wire.extend((0..chance(40)).map(|_| ALPHABET[chance(ALPHABET.len())]));
            for piece in wire.chunks(chance(7) + 1) {
                reader.feed(piece);
                if take_all(&mut reader).is_err() {
                    break;
                }
                assert!(reader.unread() <= wire.len() + REPLY_LINES_MAX);
            }
        }
    }

    #[test]
    fn octets_after_a_reply_are_seen() {
        let mut reader = ReplyReader::default();
        reader.feed(b"220 go\r\n");
        assert!(matches!(reader.reply(), Ok(Some(_))));
        assert!(reader.is_drained());
        reader.feed(b"220 go\r\n250 injected\r\n");
        assert!(matches!(reader.reply(), Ok(Some(_))));
        assert!(!reader.is_drained());
    }

    fn ehlo(text: &str) -> Capabilities {
        Capabilities::from_ehlo(&read(text.as_bytes(), 4096).remove(0).expect("a reply"))
    }

    #[test]
    fn capabilities_are_read_whatever_stands_beside_them() {
        let exchange = ehlo(
            "250-AM0.outlook.office365.com Hello [192.0.2.1]\r\n250-SIZE 157286400\r\n250-PIPELINING\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-AUTH LOGIN XOAUTH2\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n",
        );
        assert!(exchange.pipelining() && exchange.dsn() && exchange.smtputf8());
        assert!(exchange.eight_bit_mime() && !exchange.starttls());
        assert_eq!(exchange.size_max(), Some(157_286_400));
        assert!(exchange.offers(Mechanism::Xoauth2) && exchange.offers(Mechanism::Login));
        assert!(!exchange.offers(Mechanism::Plain) && !exchange.offers(Mechanism::OauthBearer));

        let odd = ehlo(
            "250-x\r\n250-SIZE\r\n250-AUTH=PLAIN OAUTHBEARER\r\n250-X-UNHEARD-OF thing=1\r\n250-size huge\r\n250 starttls\r\n",
        );
        assert!(odd.starttls() && odd.offers(Mechanism::Plain));
        assert!(odd.offers(Mechanism::OauthBearer));
        assert_eq!(odd.size_max(), None);
        assert_eq!(ehlo("250 x\r\n"), Capabilities::default());
    }

    fn mail(server: &Capabilities, path: &ReversePath) -> Result<String, CommandError> {
        let mail = Mail {
            reverse_path: path,
            size: 1234,
            body: BodyType::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("a+2Bb"),
        };
        let mut out = b"RSET\r\n".to_vec();
        let done = mail.encode(server, &mut out);
        let text = String::from_utf8(out).expect("text");
        if done.is_err() {
            assert_eq!(text, "RSET\r\n", "nothing of a refused command stays");
        }
        done.map(|()| text.replacen("RSET\r\n", "", 1))
    }

    #[test]
    fn parameters_are_sent_only_to_a_server_that_offers_them() {
        let path = ReversePath::Address(Address::parse("a@b.example").expect("valid"));
        let all = ehlo("250-x\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n");
        assert_eq!(
            mail(&all, &path).as_deref(),
            Ok("MAIL FROM:<a@b.example> SIZE=1234 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb\r\n")
        );
        let none = Capabilities::default();
        assert_eq!(
            mail(&none, &path).as_deref(),
            Ok("MAIL FROM:<a@b.example>\r\n")
        );
        assert_eq!(
            mail(&none, &ReversePath::Null).as_deref(),
            Ok("MAIL FROM:<>\r\n")
        );

        let recipient = Recipient {
            address: Address::parse("c@d.example").expect("valid"),
            notify: Notify::On {
                success: true,
                failure: false,
                delay: true,
            },
            orcpt: Some("rfc822;c+2B@d.example".into()),
        };
        for (server, line) in [
            (
                &all,
                "RCPT TO:<c@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2B@d.example\r\n",
            ),
            (&none, "RCPT TO:<c@d.example>\r\n"),
        ] {
            let mut out = Vec::new();
            assert_eq!(rcpt(&recipient, server, &mut out), Ok(()));
            assert_eq!(String::from_utf8_lossy(&out), line);
        }
    }

    #[test]
    fn no_control_character_becomes_a_command() {
        let none = Capabilities::default();
        // The address type of this crate refuses these; the encoder does not rely on it.
        if let Ok(address) = Address::parse("a\r\nRCPT TO:<x@y>@b.example") {
            let path = ReversePath::Address(address);
            assert_eq!(mail(&none, &path), Err(CommandError::Control));
        }
        let mut out = Vec::new();
        for bad in ["a\r\nMAIL", "a\0", "a b", "\x7f"] {
            assert_eq!(command("EHLO", bad, &mut out), Err(CommandError::Control));
        }
        assert!(out.is_empty());
        let path = ReversePath::Address(Address::parse("ü@b.example").expect("valid"));
        assert_eq!(mail(&none, &path), Err(CommandError::Smtputf8));
    }
}
