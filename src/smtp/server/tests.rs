//! Plays `tests/dialogues/*.smtp` against the machine behind framer and decoder.
//!
//! ```text
//! # why this dialogue exists
//! set auth=required mechanisms=PLAIN,LOGIN
//! C: EHLO a          a line of the client, CRLF added
//! C* 100 NOOP        a line of the client so many times; what is answered is not looked at
//! C! NOOP\n          octets of the client as they are, with \r \n \0 \t \xHH
//! S: 250 *           a line of ours; `*` stands for anything
//! S: ...             lines of ours up to the last one of the reply, whatever they say
//! M: Subject: x      a line of the message that was taken, in order; `M:` alone is an empty one
//! E: text            envelope, protocol and helo of that message as text
//! TLS                the handshake that was asked for is done
//! CLOSED             we have closed
//! ```

use std::{collections::VecDeque, fmt::Write as _, fs, path::Path};

use super::*;
use crate::smtp::{
    data::decode::{BareEnds, Decoder},
    line::{Ending, Frame, Framer},
};

struct Peer {
    session: Session,
    framer: Framer,
    data: Option<(Decoder, Vec<u8>)>,
    bare: BareEnds,
    input: Vec<u8>,
    output: VecDeque<String>,
    message: VecDeque<String>,
    envelope: VecDeque<String>,
    closed: bool,
}

impl Peer {
    fn new(options: &str) -> Self {
        let on = |name: &str| options.split_whitespace().any(|option| option == name);
        let value = |name: &str| {
            let mut options = options.split_whitespace();
            options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
        };
        let mechanism = |name: &str| match name {
            "PLAIN" => Mechanism::Plain,
            "LOGIN" => Mechanism::Login,
            "XOAUTH2" => Mechanism::Xoauth2,
            "OAUTHBEARER" => Mechanism::OauthBearer,
            other => panic!("mechanism {other}"),
        };
        let settings = Settings {
            hostname: "relay.example".to_owned(),
            max_message_size: value("size").map_or(1_000_000, |size| size.parse().unwrap()),
            max_recipients: value("recipients").map_or(100, |count| count.parse().unwrap()),
            starttls: on("starttls"),
            mechanisms: value("mechanisms")
                .map_or_else(Vec::new, |list| list.split(',').map(mechanism).collect()),
            auth_required: on("auth_required"),
            auth_without_tls: !on("auth_needs_tls"),
            dsn: if on("no_dsn") {
                Dsn::NotOffered
            } else {
                Dsn::Offered
            },
            qualify_domain: "relay.example".to_owned(),
        };
        let normalize = on("normalize");
        let session = Session::new(Arc::new(settings), on("tls"));
        let greeting = session.greeting();
        let mut peer = Self {
            session,
            framer: Framer::new(if normalize {
                Ending::CrlfOrLf
            } else {
                Ending::Crlf
            }),
            data: None,
            bare: if normalize {
                BareEnds::Rewrite
            } else {
                BareEnds::Report
            },
            input: Vec::new(),
            output: VecDeque::new(),
            message: VecDeque::new(),
            envelope: VecDeque::new(),
            closed: false,
        };
        peer.write(&greeting);
        peer
    }

    fn write(&mut self, reply: &Reply) {
        assert!(reply.0.ends_with("\r\n"), "whole lines only");
        for line in reply.0.split_terminator("\r\n") {
            assert!(!line.contains(['\r', '\n']) && line.len() < 510, "{line:?}");
            self.output.push_back(line.to_owned());
        }
    }

    fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.closed && self.once() {}
    }

    /// Takes one line or piece of data; whether there may be more.
    fn once(&mut self) -> bool {
        if let Some((mut decoder, mut message)) = self.data.take() {
            let progress = decoder.decode(&self.input, &mut message);
            self.input.drain(..progress.used);
            if !progress.ended {
                self.data = Some((decoder, message));
                return false;
            }
            self.take_message(&decoder, &message);
            return true;
        }
        let (frame, used) = self.framer.next(&self.input, self.session.line_len_max());
        let (step, close) = match frame {
            Frame::Line(line) => (self.session.line(line), false),
            Frame::Refused(fault) => (self.session.fault(fault), false),
            Frame::Broken(fault) => (self.session.fault(fault), true),
            Frame::Incomplete => {
                self.input.drain(..used);
                return false;
            }
        };
        self.input.drain(..used);
        self.act(step);
        self.closed |= close;
        true
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Reply(reply) => self.write(&reply),
            Step::Alone(reply) => {
                self.write(&reply);
                if !self.input.is_empty() {
                    self.write(&Reply::OUT_OF_STEP);
                    self.closed = true;
                }
            }
            Step::Close(reply) => {
                self.write(&reply);
                self.closed = true;
            }
            Step::StartTls(reply) => {
                let injected = !self.input.is_empty();
                self.closed = injected;
                self.write(if injected { &Reply::INJECTED } else { &reply });
            }
            Step::Ask(question) => {
                let answer = decide(&question);
                let step = self.session.answer(answer);
                self.act(step);
            }
            Step::Data(reply) => {
                self.write(&reply);
                self.data = Some((Decoder::new(self.bare), Vec::new()));
            }
        }
    }

    fn take_message(&mut self, decoder: &Decoder, message: &[u8]) {
        let faults = decoder.faults();
        let reply = match (faults.bare_ending, faults.nul) {
            (true, _) => Reply::BARE_ENDINGS,
            (_, true) => Reply::NUL_IN_DATA,
            _ => Reply::OK,
        };
        if reply == Reply::OK {
            let text = String::from_utf8_lossy(message).into_owned();
            self.message = text.split_terminator("\r\n").map(str::to_owned).collect();
            self.envelope.push_back(describe(&self.session));
        }
        self.session.end_of_data();
        self.write(&reply);
    }
}

fn describe(session: &Session) -> String {
    let envelope = session.envelope().unwrap();
    let mut text = format!(
        "{} from {} <{}>",
        session.protocol(),
        session.helo().unwrap(),
        envelope.reverse_path
    );
    for recipient in &envelope.recipients {
        write!(text, " <{}>", recipient.address).unwrap();
        if recipient.notify != Notify::Unspecified {
            write!(text, " {:?}", recipient.notify).unwrap();
        }
        if let Some(orcpt) = &recipient.orcpt {
            write!(text, " {orcpt}").unwrap();
        }
    }
    write!(text, " {:?}", envelope.body).unwrap();
    if let Some(ret) = envelope.ret {
        write!(text, " {ret:?}").unwrap();
    }
    if let Some(envid) = &envelope.envid {
        write!(text, " {envid}").unwrap();
    }
    if let Some(login) = session.login() {
        write!(text, " login {login}").unwrap();
    }
    text
}

fn decide(question: &Question) -> Answer {
    match question {
        Question::Login(Credentials::Password { username, password }) => {
            if username == "printer" && password.expose() == "secret" {
                Answer::Accept
            } else {
                Answer::Refuse(Reply::AUTH_FAILED)
            }
        }
        Question::Login(Credentials::Bearer { username, token }) => {
            if username == "a@b.example" && token.expose() == "live" {
                Answer::Accept
            } else {
                Answer::Challenge(r#"{"status":"401"}"#.to_owned(), Reply::AUTH_FAILED)
            }
        }
        Question::Mail { reverse_path, .. } => {
            if reverse_path.to_string().starts_with("forged") {
                Answer::Refuse(Reply::SENDER_REFUSED)
            } else {
                Answer::Accept
            }
        }
        Question::Rcpt(_) => Answer::Accept,
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next().unwrap() {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'x' => {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    octets
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.any(|at| matches(tail, rest.get(at..).unwrap()))
        }),
    }
}

fn play(name: &str, script: &str) {
    let mut peer: Option<Peer> = None;
    for (number, line) in script.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if let Some(options) = line.strip_prefix("set") {
            if let Some(peer) = peer {
                assert!(peer.output.is_empty(), "{place}: unread {:?}", peer.output);
            }
            peer = Some(Peer::new(options));
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let peer = peer.get_or_insert_with(|| Peer::new(""));
        let (kind, text) = line.split_at(line.len().min(2));
        let text = text.strip_prefix(' ').unwrap_or(text);
        match kind {
            "C:" => peer.feed(format!("{text}\r\n").as_bytes()),
            "C!" => peer.feed(&unescape(text)),
            "S:" if text == "..." => {
                while peer.output.pop_front().unwrap().as_bytes()[3] == b'-' {}
            }
            "S:" => expect(&place, text, peer.output.pop_front()),
            "M:" => expect(&place, text, peer.message.pop_front()),
            "E:" => expect(&place, text, peer.envelope.pop_front()),
            "C*" => {
                let (count, text) = text.split_once(' ').unwrap();
                for _ in 0..count.parse::<usize>().unwrap() {
                    peer.feed(format!("{text}\r\n").as_bytes());
                    peer.output.clear();
                }
            }
            "TL" => peer.session.tls_started(),
            "CL" => assert!(peer.closed, "{place}: still open"),
            other => panic!("{place}: {other:?}"),
        }
    }
    let peer = peer.unwrap();
    assert!(peer.output.is_empty(), "{name}: unread {:?}", peer.output);
}

fn expect(place: &str, pattern: &str, found: Option<String>) {
    let found = found.unwrap_or_else(|| panic!("{place}: want {pattern:?}, nothing there"));
    assert!(
        matches(pattern, &found),
        "{place}: want {pattern:?}, found {found:?}"
    );
}

/// Each file is one story about the session; its first line says why it is there.
#[test]
fn dialogues_go_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            script.starts_with("# "),
            "{name} does not say why it exists"
        );
        play(&name, &script);
        count += 1;
    }
    assert!(count >= 10, "the dialogues are missing");
}

/// One dialogue for each row of defects known of smtp-proto 0.2.5, so that none comes in unseen.
mod smtp_proto_defects {
    use super::play;

    const BEGIN: &str = "S: ...\nC: EHLO a\nS: ...\n";

    fn after_ehlo(name: &str, script: &str) {
        play(name, &format!("{BEGIN}{script}"));
    }

    #[test]
    fn empty_data_ends_at_once() {
        after_ehlo(
            "empty data",
            "C: MAIL FROM:<a@b.c>\nS: 250 *\nC: RCPT TO:<x@y.z>\nS: 250 *\nC: DATA\nS: 354 *\n\
             C: .\nS: 250 *\nC: NOOP\nS: 250 *\n",
        );
    }

    #[test]
    fn dot_cr_crlf_smuggles_nothing() {
        after_ehlo(
            "dot cr crlf",
            "C: MAIL FROM:<a@b.c>\nS: 250 *\nC: RCPT TO:<x@y.z>\nS: 250 *\nC: DATA\nS: 354 *\n\
             C! a\\r\\n.\\r\\r\\nMAIL FROM:<evil@b.c>\\r\\n.\\r\\n\nS: 550 5.6.11 *\n\
             C: NOOP\nS: 250 *\n",
        );
    }

    #[test]
    fn bare_endings_in_data_are_refused_after_the_true_end() {
        for variant in ["\\n.\\n", "\\n.\\r\\n", "\\r.\\r", "\\r\\n.\\n"] {
            after_ehlo(
                variant,
                &format!(
                    "C: MAIL FROM:<a@b.c>\nS: 250 *\nC: RCPT TO:<x@y.z>\nS: 250 *\nC: DATA\n\
                     S: 354 *\nC! a{variant}RSET\\r\\n.\\r\\n\nS: 550 5.6.11 *\nC: NOOP\nS: 250 *\n"
                ),
            );
        }
    }

    #[test]
    fn a_command_ended_by_bare_lf_is_refused() {
        after_ehlo(
            "bare lf",
            "C! NOOP\\nRSET\\r\\n\nS: 500 5.5.2 bare LF*\nCLOSED\n",
        );
    }

    #[test]
    fn a_cr_within_a_command_is_refused() {
        after_ehlo(
            "bare cr",
            "C! E\\rHLO a\\r\\n\nS: 500 5.5.2 bare CR*\n\
             C! MAIL FROM:<u\\r@c.d>\\r\\n\nS: 500 5.5.2 bare CR*\nC: NOOP\nS: 250 *\n",
        );
    }

    #[test]
    fn postmaster_and_root_are_qualified() {
        after_ehlo(
            "unqualified",
            "C: MAIL FROM:<root>\nS: 250 *\nC: RCPT TO:<postmaster>\nS: 250 *\n\
             C: RCPT TO:<root>\nS: 250 *\nC: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\n\
             E: * <root@relay.example> <postmaster@relay.example> <root@relay.example> *\n",
        );
    }

    #[test]
    fn address_literals_are_taken() {
        after_ehlo(
            "literals",
            "C: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<u@[192.0.2.1]>\nS: 250 *\n\
             C: RCPT TO:<u@[IPv6:2001:db8::1]>\nS: 250 *\nC: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\n\
             E: * <> <u@[192.0.2.1]> <u@[IPv6:2001:db8::1]> *\n",
        );
    }

    #[test]
    fn a_quoted_local_part_stays_quoted() {
        after_ehlo(
            "quoted",
            "C: MAIL FROM:<\"a>b\"@c.d>\nS: 250 *\nC: RCPT TO:<\"x\\\" @>\"@c.d>\nS: 250 *\n\
             C: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\nE: * <\"a>b\"@c.d> <\"x\\\" @>\"@c.d> *\n",
        );
    }

    #[test]
    fn octets_that_are_not_utf8_are_refused() {
        after_ehlo(
            "latin-1",
            "C! MAIL FROM:<\\xff@b.c>\\r\\n\nS: 500 5.5.2 *\n",
        );
    }

    #[test]
    fn a_path_without_brackets_or_with_spaces_is_taken() {
        after_ehlo(
            "bare path",
            "C: MAIL FROM:a@b.c SIZE=10\nS: 250 *\nC: RCPT TO: x@y.z\nS: 250 *\nC: RSET\nS: 250 *\n\
             C: mail from : < a@b.c > BODY=8BITMIME\nS: 250 *\nC: RCPT TO:<@r.s,@t.u:x@y.z>\n\
             S: 250 *\nC: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\nE: * <a@b.c> <x@y.z> EightBitMime\n",
        );
    }

    #[test]
    fn orcpt_may_be_utf8_and_keeps_its_xtext() {
        after_ehlo(
            "orcpt",
            "C: MAIL FROM:<a@b.c> SMTPUTF8 ENVID=a+2Bb RET=HDRS\nS: 250 *\n\
             C: RCPT TO:<x@y.z> ORCPT=utf-8;jörg@y.z NOTIFY=SUCCESS,DELAY\nS: 250 *\n\
             C: RCPT TO:<q@y.z> ORCPT=rfc822;q+40y.z NOTIFY=NEVER\nS: 250 *\n\
             C: DATA\nS: 354 *\nC: x\nC: .\nS: 250 *\n\
             E: UTF8SMTP * <x@y.z> On { success: true, failure: false, delay: true } \
             utf-8;jörg@y.z <q@y.z> Never rfc822;q+40y.z SevenBit Headers a+2Bb\n",
        );
    }

    #[test]
    fn unknown_and_broken_parameters_are_told_apart() {
        after_ehlo(
            "parameters",
            "C: MAIL FROM:<a@b.c> FOO=1\nS: 555 *\nC: MAIL FROM:<a@b.c> HOLDFOR=9\nS: 555 *\n\
             C: MAIL FROM:<a@b.c> BODY=BINARYMIME\nS: 501 *\nC: MAIL FROM:<a@b.c> SIZE=x\nS: 501 *\n\
             C: MAIL FROM:<a@b.c> SIZE=1 SIZE=2\nS: 501 *\nC: MAIL FROM:<a@b.c> ENVID=a=b\nS: 501 *\n\
             C: MAIL FROM:<a@b.c> RET=SOME\nS: 501 *\nC: MAIL FROM:<a@b.c>SIZE=1\nS: 501 *\n\
             C: MAIL FROM:<a@b.c> AUTH=<>\nS: 250 *\n\
             C: RCPT TO:<x@y.z> RRVS=x\nS: 555 *\nC: RCPT TO:<x@y.z> NOTIFY=NEVER,DELAY\nS: 501 *\n\
             C: RCPT TO:<x@y.z> ORCPT=x\nS: 501 *\nC: RCPT TO:<>\nS: 501 5.1.3 *\n",
        );
    }

    #[test]
    fn junk_behind_a_command_without_arguments_is_refused() {
        after_ehlo(
            "junk",
            "C: RSET junk\nS: 501 *\nC: QUIT now\nS: 501 *\nC: DATA junk\nS: 501 *\n\
             C: NOOP junk\nS: 250 *\nC: EHLO a b\nS: ...\n",
        );
    }
}
