//! Google's and Microsoft's own client libraries against the practice APIs: the rehearsal is only
//! worth something if those take it for the real thing.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use crate::support::{
    eventually, free_address,
    process::Process,
    program,
    relay::{BINARY, bare},
    repository, scratch,
};

const MAILBOX: &str = "alerts@example.com";

/// A sandbox, and what a client library needs to know of it.
struct Sandbox {
    http: SocketAddr,
    client_id: String,
    client_secret: String,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Sandbox {
    fn start() -> Self {
        let (http, dir) = (free_address(), scratch());
        let written = dir.path().join("practice.toml");
        let mut command = Command::new(BINARY);
        command.args(["sandbox", "--http", &http.to_string()]);
        command.args(["--smtp", &free_address().to_string(), "--mailbox", MAILBOX]);
        command.arg("--write-config").arg(&written);
        bare(&mut command);
        let process = Process::spawn("sandbox", &command, &dir.path().join("sandbox.log"));
        eventually("the sandbox is up", || {
            process.log().contains("Ctrl-C stops it").then_some(())
        });
        let written = fs::read_to_string(written).unwrap();
        let value = |key: &str| {
            let line = written
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap();
            line.trim_start_matches(" = ").trim_matches('"').to_owned()
        };
        Self {
            http,
            client_id: value("client_id"),
            client_secret: value("client_secret"),
            _process: process,
            _dir: dir,
        }
    }

    /// Runs a script of a library, which must be satisfied.
    fn satisfies(&self, program: &Path, script: &str) {
        let script = repository().join("tests/interop/apis").join(script);
        let output = Command::new(program)
            .arg(&script)
            .arg(format!("http://{}", self.http))
            .args([&self.client_id, &self.client_secret, MAILBOX])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && told.trim() == "ok",
            "{}: {told}\n{error}",
            script.display()
        );
    }

    fn taken(&self) -> serde_json::Value {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let host = self.http;
        write!(
            stream,
            "GET /messages HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

#[test]
fn googles_library_takes_the_practice_gmail_for_gmail() {
    let sandbox = Sandbox::start();
    let python = repository().join("target/tools/python-apis/bin/python");
    assert!(
        python.exists(),
        "run ./test.sh once: it installs Google's library"
    );
    sandbox.satisfies(&python, "google_send.py");
    let taken = sandbox.taken();
    for (at, to) in ["a@example.org", "b@example.org"].into_iter().enumerate() {
        let recipients = &taken[at]["recipients"];
        assert_eq!(recipients, &serde_json::json!([to, "blind@example.org"]));
        assert!(!taken[at]["message"].as_str().unwrap().contains("Bcc"));
        assert_eq!(taken[at]["over"], "gmail");
    }
}

#[test]
fn microsofts_library_takes_the_practice_graph_for_graph() {
    let sandbox = Sandbox::start();
    sandbox.satisfies(&program("node", "nodejs (see test.sh)"), "graph_send.mjs");
    let taken = sandbox.taken();
    assert_eq!(taken.as_array().unwrap().len(), 1);
    assert_eq!(taken[0]["over"], "graph");
    let recipients = &taken[0]["recipients"];
    assert_eq!(
        recipients,
        &serde_json::json!(["a@example.org", "blind@example.org"])
    );
}
