//! The API held to its own document by schemathesis: whatever fits `openapi.json`, and whatever does not,
//! is answered as it says, never with a 5xx, and never without a key.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
};

use serde_json::Value;

use crate::support::{
    mail::message,
    process::Process,
    relay::{Site, bare},
    repository,
    sink::Sink,
};

/// Asks the API on the control socket.
fn post(site: &Site, path: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(site.state().join("control.sock")).unwrap();
    write!(
        stream,
        "POST /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or(Value::Null)
}

#[test]
fn the_api_is_as_its_document_says() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.extend(&["[provider.filed]\nkind = \"google\"\nclient_id = \"id\"\n".to_owned()]);
    let mut relay = site.start();
    let key = post(&site, "/keys", "{\"name\": \"schemathesis\"}");
    post(
        &site,
        "/logins",
        "{\"name\": \"scanner\", \"account\": \"alerts\"}",
    );
    // Mail to ask for: it waits until something that is asked for lets it go.
    post(&site, "/accounts/alerts/hold", "");
    for id in ["one", "two", "three"] {
        site.submit(&message(id, b"Hello.\r\n"));
    }
    let waiting: Vec<Value> = site.queue().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(waiting.len(), 3);

    let url = format!("http://{}", site.console);
    let template = repository().join("tests/interop/openapi/schemathesis.toml");
    let settings = fs::read_to_string(template)
        .unwrap()
        .replace("@URL@", &url)
        .replace("@KEY@", key["key"].as_str().unwrap())
        .replace("@MESSAGES@", &Value::Array(waiting).to_string());
    let file = site.path().join("schemathesis.toml");
    fs::write(&file, settings).unwrap();
    let program = repository().join("target/tools/python-openapi/bin/schemathesis");
    assert!(program.is_file(), "schemathesis is missing: run ./test.sh");
    let mut command = Command::new(program);
    bare(&mut command);
    command
        .current_dir(site.path())
        .env("HOME", site.path())
        .args(["--no-color", "--config-file"])
        .arg(&file)
        .args(["run", &format!("{url}/api/v1/openapi.json")]);
    let log = site.path().join("schemathesis.log");
    let mut asking = Process::spawn("schemathesis", &command, &log);
    let ended = asking.wait();
    assert!(ended.success(), "see what schemathesis found above");
    let said = asking.log();
    let tested = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Selected: "));
    let (tested, all) = tested.unwrap().split_once('/').unwrap();
    assert_eq!(tested, all, "operations are left out");
    site.transcript.add(said);

    assert!(relay.process.ended().is_none(), "the daemon has ended");
    let log = relay.process.log();
    assert!(
        !log.contains("panicked") && !log.contains("\"ERROR\""),
        "{log}"
    );
    post(&site, "/accounts/alerts/release", "");
    site.submit(&message("after", b"Still here.\r\n"));
    sink.find("Still here.");
}
