//! The redirect address of the guide this project began with: https on the machine's own address, a
//! fixed port, a fixed path with its slash at the end.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    network,
    rig::{Provider, certificates_for},
    support::{login::Login, program, relay::Site, scratch},
};

const REDIRECT: &str = "https://10.16.13.2:9443/authorization/smtp_oauth/";

/// What curl gets: status and body. `host`: the name that it asks for.
fn curl(ca_file: &Path, path: &str, host: &str) -> (String, String) {
    let output = Command::new(program("curl", "curl"))
        .args([
            "-sS",
            "-w",
            "\n%{http_code}",
            "-H",
            &format!("Host: {host}"),
        ])
        .arg("--cacert")
        .arg(ca_file)
        .arg(format!("https://10.16.13.2:9443{path}"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// A site whose console is there, with a certificate for that address; its authority is `ca.pem`.
fn site(dir: &Path, provider: &Provider) -> Site {
    let own = network::CONSOLE.to_string();
    certificates_for(dir, &[own.as_str()]);
    let file = |name: &str| dir.join(name);
    let console = SocketAddr::new(network::CONSOLE.into(), 9443);
    let site = Site::with_console(
        console,
        &format!(
            "{}[account.alerts]\nprovider = \"rig\"\nmailbox = \"app@example.test\"\n\
             [account.alerts.smtp]\nhost = \"127.0.0.1\"\nport = 9\ntls = \"none\"\n",
            provider.table()
        ),
    );
    site.edit("http://@CONSOLE@/authorization/smtp_oauth/", REDIRECT);
    site.edit(
        "address = \"@CONSOLE@\"",
        &format!(
            "address = \"@CONSOLE@\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"",
            file("cert.pem").display(),
            file("key.pem").display()
        ),
    );
    let checked = site.run(&["check"]);
    let warned = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        checked.status.success() && !warned.contains("redirect_url"),
        "{warned}"
    );
    site
}

/// A browser that trusts the certificate comes back there and the account is signed in, with a daemon
/// and without one; the path counts with and without its slash; nothing else is answered there, and no
/// other host.
#[test]
fn a_browser_comes_back_to_the_machines_own_address() {
    if !network::is_inside("own_address::a_browser_comes_back_to_the_machines_own_address") {
        return;
    }
    let dir = scratch();
    let provider = Provider::start(&[("REDIRECTS", REDIRECT)]);
    let site = site(dir.path(), &provider);
    let authority = dir.path().join("ca.pem");
    for with_daemon in [true, false] {
        let relay = with_daemon.then(|| site.start());
        let mut login = Login::start(&site, &["login", "alerts", "--no-browser"]);
        login.says(&format!("comes back to {REDIRECT}"));
        let url = login.url(&format!("http://{}/auth", provider.address));
        let said = Provider::press_trusting(Some(&authority), &url, "app@example.test", &[]);
        assert!(
            said.starts_with(REDIRECT) && said.contains("200 Signed in"),
            "{said}"
        );
        login.succeeds();
        drop(relay);
    }
    let _relay = site.start();
    for (path, host, status) in [
        (
            "/authorization/smtp_oauth/?code=x&state=y",
            "10.16.13.2:9443",
            "400",
        ),
        (
            "/authorization/smtp_oauth?code=x&state=y",
            "10.16.13.2:9443",
            "400",
        ),
        ("/authorization/other/", "10.16.13.2:9443", "404"),
        (
            "/authorization/smtp_oauth/?code=x&state=y",
            "evil.example",
            "421",
        ),
        ("/api/v1/accounts", "10.16.13.2:9443", "401"),
    ] {
        let (got, body) = curl(&authority, path, host);
        assert_eq!(got, status, "{path} for {host}: {body}");
        let is_page = body.contains("Not signed in");
        assert_eq!(is_page, status == "400", "{path}: {body}");
    }
}
