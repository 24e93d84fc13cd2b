//! A visitor of the console: requests as a browser sends them, over a plain socket, with a cookie.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use url::form_urlencoded;

use super::relay::Site;

const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status code.
    pub(crate) status: u16,
    head: String,
    /// What follows the head.
    pub(crate) body: String,
}

impl Answer {
    /// The first field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (given, value) = line.split_once(": ")?;
            given.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A browser at one console.
#[derive(Debug)]
pub(crate) struct Browser {
    console: SocketAddr,
    host: String,
    /// `name=value` of its session.
    pub(crate) cookie: Option<String>,
}

impl Browser {
    /// One without a session.
    pub(crate) fn new(console: SocketAddr) -> Self {
        Self {
            console,
            host: console.to_string(),
            cookie: None,
        }
    }

    /// One that has logged in with a new one-time code.
    pub(crate) fn logged_in(site: &Site) -> Self {
        let mut browser = Self::new(site.console);
        let answer = browser.log_in(&[("code", &code(site))]);
        assert_eq!(answer.status, 303, "{answer:?}");
        browser
    }

    /// Sends the login form, and keeps the cookie that comes.
    pub(crate) fn log_in(&mut self, fields: &[(&str, &str)]) -> Answer {
        let answer = self.send("POST", "/login", &[], &form(fields));
        if let Some(cookie) = answer.field("set-cookie") {
            let (pair, _) = cookie.split_once(';').unwrap();
            self.cookie = Some(pair.to_owned());
        }
        answer
    }

    /// A page.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    /// A page that does not end by itself, to be read as it comes.
    pub(crate) fn open(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.console).unwrap();
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).unwrap();
        let (host, cookie) = (&self.host, self.cookie.as_deref().unwrap_or_default());
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        BufReader::new(stream)
    }

    /// Sends a form with the token of the page `from`.
    pub(crate) fn submit(&self, from: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.token(from);
        let mut all = vec![("csrf", token.as_str())];
        all.extend(fields);
        self.send("POST", path, &[], &form(&all))
    }

    /// Sends a form with the token of the page `from` for a file: head and octets. By HTTP/1.0, whose
    /// bodies end with the connection and come in no pieces.
    pub(crate) fn download(
        &self,
        from: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> (String, Vec<u8>) {
        let token = self.token(from);
        let mut all = vec![("csrf", token.as_str())];
        all.extend(fields);
        let body = form(&all);
        let mut stream = TcpStream::connect(self.console).unwrap();
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).unwrap();
        let (host, cookie) = (&self.host, self.cookie.as_deref().unwrap_or_default());
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: {host}\r\nCookie: {cookie}\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap();
        let octets = answer.split_off(end + 4);
        let head = String::from_utf8(answer).unwrap();
        assert!(head.contains(" 200 "), "{head}");
        (head, octets)
    }

    /// The token in the forms of a page.
    pub(crate) fn token(&self, page: &str) -> String {
        let page = self.get(page).body;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    /// Any request; `fields` come after the usual ones.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut stream = TcpStream::connect(self.console).unwrap();
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let is_given = |name: &str| fields.iter().any(|(given, _)| *given == name);
        if !is_given("Host") {
            head.push_str(&format!("Host: {}\r\n", self.host));
        }
        if let Some(cookie) = &self.cookie {
            head.push_str(&format!("Cookie: other=1; {cookie}\r\n"));
        }
        if method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            if !is_given("Content-Type") {
                head.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
            }
        }
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        write!(stream, "{head}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

/// Fields as a form sends them.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

/// A new one-time code.
pub(crate) fn code(site: &Site) -> String {
    let output = site.run(&["console", "--json"]);
    let invitation: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let url = invitation["url"].as_str().unwrap();
    url.split_once("code=").unwrap().1.to_owned()
}
